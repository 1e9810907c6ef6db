# Each runtime is one source file, built where its headers are found.
set(HP_BACKEND_LIBRARIES "")

if(NOT HP_ONNXRUNTIME STREQUAL "OFF")
  find_path(HP_ONNXRUNTIME_INCLUDE onnxruntime_c_api.h HINTS "${HP_HEADERS}/include"
    PATH_SUFFIXES onnxruntime onnxruntime/core/session)
  if(HP_ONNXRUNTIME_INCLUDE)
    target_sources(hp_objects PRIVATE src/backends/ort.cpp)
    target_include_directories(hp_objects SYSTEM PRIVATE ${HP_ONNXRUNTIME_INCLUDE})
    target_compile_definitions(hp_objects PRIVATE HP_WITH_ONNXRUNTIME)
  elseif(HP_ONNXRUNTIME STREQUAL "ON")
    message(FATAL_ERROR "onnxruntime_c_api.h is not there; install libonnxruntime-dev, or run "
                        "scripts/get_headers.sh ${HP_HEADERS}")
  endif()
endif()
message(STATUS "hp_sdk: ONNX Runtime ${HP_ONNXRUNTIME_INCLUDE}")

if(NOT HP_OPENVINO STREQUAL "OFF")
  find_package(OpenVINO QUIET COMPONENTS Runtime)
  if(OpenVINO_FOUND)
    target_sources(hp_objects PRIVATE src/backends/openvino.cpp)
    target_compile_definitions(hp_objects PRIVATE HP_WITH_OPENVINO)
    target_include_directories(hp_objects SYSTEM PRIVATE
      $<TARGET_PROPERTY:openvino::runtime,INTERFACE_INCLUDE_DIRECTORIES>)
    set(HP_BACKEND_LIBRARIES openvino::runtime)
  elseif(HP_OPENVINO STREQUAL "ON")
    message(FATAL_ERROR "OpenVINO is not there; pip install openvino, then give -DOpenVINO_DIR=the folder "
                        "openvino/cmake in it")
  endif()
endif()
message(STATUS "hp_sdk: OpenVINO ${OpenVINO_VERSION}")

# libnvinfer, libcuda and libnvrtc are loaded at run time; the kernels are those of the Python package.
if(NOT HP_TENSORRT STREQUAL "OFF")
  find_path(HP_TENSORRT_INCLUDE NvInfer.h PATHS /usr/local/tensorrt/include
    PATH_SUFFIXES x86_64-linux-gnu aarch64-linux-gnu)
  find_path(HP_CUDA_INCLUDE cuda_runtime_api.h HINTS "${HP_TENSORRT_INCLUDE}" PATHS /usr/local/cuda/include)
  if(HP_TENSORRT_INCLUDE AND HP_CUDA_INCLUDE)
    set(HP_KERNELS_DIR ${CMAKE_CURRENT_SOURCE_DIR}/../hp_sdk/gpu)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
      ${HP_KERNELS_DIR}/kernels.cu ${HP_KERNELS_DIR}/pixels.h)
    file(READ ${HP_KERNELS_DIR}/kernels.cu HP_KERNELS)
    file(READ ${HP_KERNELS_DIR}/pixels.h HP_PIXELS)
    configure_file(src/gpu/sources.hpp.in generated/gpu/sources.hpp @ONLY)
    target_sources(hp_objects PRIVATE src/backends/tensorrt.cpp src/gpu/compiler.cpp src/gpu/driver.cpp
      src/gpu/engine_file.cpp src/gpu/pipeline.cpp)
    target_include_directories(hp_objects PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated)
    target_include_directories(hp_objects SYSTEM PRIVATE ${HP_KERNELS_DIR} ${HP_TENSORRT_INCLUDE} ${HP_CUDA_INCLUDE})
    target_compile_definitions(hp_objects PRIVATE HP_WITH_TENSORRT)
  elseif(HP_TENSORRT STREQUAL "ON")
    message(FATAL_ERROR "NvInfer.h (TensorRT 10 or newer) or cuda_runtime_api.h is not there; give "
                        "-DHP_TENSORRT_INCLUDE=... and -DHP_CUDA_INCLUDE=...")
  endif()
endif()
message(STATUS "hp_sdk: TensorRT ${HP_TENSORRT_INCLUDE}")
