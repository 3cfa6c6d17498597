"""Kernels for NVIDIA GPUs: CUDA sources compiled by CuPy, cuBLAS, CUDA graphs and random numbers."""

from nanogen.kernels.cuda import activation, convolution, graph, normalization, products, random, updates
