"""The real CuPy on a machine without a GPU: `pytest --device emulated -m gpu`; see `cuda` and `ptx`."""
