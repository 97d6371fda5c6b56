"""Emulates Cloud Storage on this machine: `python bucket.py PORT` serves `gs://cells`.

gcsfs, google-cloud-storage and TensorStore talk to it over HTTP, as to the real one. They need two
features that the emulator lacks; this script adds them.
"""

import http
import sys

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_download = objects.download
_MOVE = (
    r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.*[^/]+)/moveTo/o/"
    r"(?P<dest_object_id>.*[^/]+)$"
)


def download(request, response, storage, *args, **kwargs):
    """Downloads an object; adds the header from which TensorStore knows its version."""
    _download(request, response, storage, *args, **kwargs)
    if response.status < 300:
        place = request.params["bucket_name"], request.params["object_id"]
        response["x-goog-generation"] = storage.get_file_obj(*place)["generation"]


def move(request, response, storage, *args, **kwargs):
    """Renames an object."""
    place = request.params["bucket_name"], request.params["object_id"]
    target = request.params["bucket_name"], request.params["dest_object_id"]
    try:
        moved = objects._copy(request.base_url, storage, *place, *target)
        storage.delete_file(*place)
    except NotFound:
        response.status = http.HTTPStatus.NOT_FOUND
        return
    response.json(moved)


if __name__ == "__main__":
    objects.download = download  # before the server builds its table of routes
    from gcp_storage_emulator import server

    server.HANDLERS = ((_MOVE, {"POST": move}), *server.HANDLERS)
    server.create_server(
        "127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="cells"
    ).run()
