"""Packaging of tfap; the version stands in tfap/version.py alone."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "tfap/version.py").read_text()).group(1)

TFLITE = ["ai-edge-litert>=2.0"]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17"]
JAX = ["jax>=0.4.30"]
COMPARISON = ["joblib>=1.3", "cloudpickle>=3", "scipy>=1.10", "scikit-learn>=1.3", "matplotlib>=3.8"]
IMAGES = ["pillow>=10.0"]
EXTRAS = {
    "jax": JAX,
    "comparison": COMPARISON,
    "tflite": TFLITE,
    "onnx": ONNX,
    "micro": ["tflite-micro", *TFLITE],
    "examples": ["scikit-learn>=1.3", "matplotlib>=3.8"],
    "models": ["keras-hub>=0.20"],
    "tensorboard": ["tensorboard>=2.16"],
    "images": IMAGES,
    "test": [
        *("pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "tensorboard>=2.16"),
        *("nbclient>=0.10", "ipykernel>=6.29"),
        *IMAGES,
        *JAX,
        *COMPARISON,
        *TFLITE,
        *ONNX,
    ],
    "lint": ["ruff>=0.12", "mypy>=1.15"],
    "docs": (HERE / "docs/requirements.txt").read_text().split(),
}

setup(
    name="tfap",
    version=VERSION,
    description="Prunes Keras 3 and tf_keras networks by what their neurons do",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    packages=find_packages(include=["tfap", "tfap.*"]),
    package_data={"tfap": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        "tensorflow>=2.16",
        "tf_keras>=2.16",
        "tensorflow-model-optimization>=0.8.1",
        "keras>=3.7",
        "numpy>=1.26",
        "absl-py>=1.4",
        "rich>=13",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["tfap = tfap.command_line.start:start"]},
    keywords="keras tensorflow pruning sparsity dead-neurons model-compression",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
