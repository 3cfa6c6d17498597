"""Kernels in C for the CPU: one pass over memory where NumPy needs several, loops parallelised by OpenMP."""

from nanogen.kernels.cpu import threads
from nanogen.kernels.cpu.build import compiler

if compiler():
    from nanogen.kernels.cpu import activation, attention, convolution, gates, linear, normalization, softmax, updates
