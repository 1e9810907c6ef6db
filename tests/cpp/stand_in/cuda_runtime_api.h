// The one name of the CUDA runtime that NvInfer.h uses.
#pragma once

typedef struct CUstream_st* cudaStream_t;
