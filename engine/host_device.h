#pragma once
// HD: a function of a kernel, compiled for the host and, by nvcc, for the GPU.
#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline
#endif
