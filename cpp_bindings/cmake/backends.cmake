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
