"""A stand-in for Cloud Storage on this machine: `python bucket.py PORT` serves `gs://cells`.

gcsfs, google-cloud-storage and TensorStore talk to it as they do to the real one, over HTTP.
"""

import sys

from gcp_storage_emulator.handlers import objects

_download = objects.download


def download(request, response, storage, *args, **kwargs):
    """As the emulator's, with the header that TensorStore knows an object's version by."""
    _download(request, response, storage, *args, **kwargs)
    if response.status < 300:
        place = request.params["bucket_name"], request.params["object_id"]
        response["x-goog-generation"] = storage.get_file_obj(*place)["generation"]


if __name__ == "__main__":
    objects.download = download  # before the server's table of routes is made
    from gcp_storage_emulator import server

    server.create_server(
        "127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="cells"
    ).run()
