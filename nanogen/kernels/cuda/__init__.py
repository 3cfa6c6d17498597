"""Kernels for an NVIDIA GPU: CUDA sources compiled by CuPy, cuBLAS, captured graphs and random numbers."""

from nanogen.kernels.cuda import activation, convolution, graph, normalization, products, random, softmax, updates
