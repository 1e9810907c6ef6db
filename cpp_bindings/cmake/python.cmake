# The Python module hp_sdk._native (see hp_sdk/native.py), from the sources of the steps that it replaces.
option(HP_PYTHON "Build hp_sdk._native for Python" OFF)
if(NOT HP_PYTHON)
  return()
endif()

get_filename_component(HP_BINDINGS "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
set(HP_PYTHON_OUTPUT "${HP_BINDINGS}/../hp_sdk" CACHE PATH "Folder that the module is written to")

find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
execute_process(COMMAND "${Python_EXECUTABLE}" -m nanobind --cmake_dir
  OUTPUT_VARIABLE nanobind_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE HP_NO_NANOBIND ERROR_QUIET)
if(HP_NO_NANOBIND)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no nanobind; pip install nanobind")
endif()
find_package(nanobind CONFIG REQUIRED)
find_package(Threads REQUIRED)
include("${HP_BINDINGS}/cmake/simd.cmake")

# Python leaves a module with another stamp out.
file(STRINGS "${HP_BINDINGS}/../hp_sdk/native.py" HP_NATIVE_STAMP REGEX "^STAMP = [0-9]+$")
string(REPLACE "STAMP = " "" HP_NATIVE_STAMP "${HP_NATIVE_STAMP}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${HP_BINDINGS}/../hp_sdk/native.py")

# Our warnings are for our sources.
nanobind_add_module(hp_native STABLE_ABI FREE_THREADED NB_STATIC NB_SUPPRESS_WARNINGS
  "${HP_BINDINGS}/python/native.cpp" "${HP_BINDINGS}/src/planes.cpp" "${HP_BINDINGS}/src/postprocess.cpp"
  "${HP_BINDINGS}/src/resize.cpp")
target_include_directories(hp_native PRIVATE "${HP_BINDINGS}/include" "${HP_BINDINGS}/src")
target_compile_features(hp_native PRIVATE cxx_std_17)
target_compile_definitions(hp_native PRIVATE HP_NATIVE_STAMP=${HP_NATIVE_STAMP} ${HP_SIMD_DEFINITIONS})
target_compile_options(hp_native PRIVATE -ffp-contract=off $<$<CONFIG:Release>:-O3>)
target_link_libraries(hp_native PRIVATE Threads::Threads $<TARGET_NAME_IF_EXISTS:hp_flags>)

# Renamed into place: a process that imports the module meanwhile gets the old one or the new one.
set_target_properties(hp_native PROPERTIES OUTPUT_NAME _native)
add_custom_target(hp_native_in_place ALL DEPENDS hp_native
  COMMAND "${CMAKE_COMMAND}" -E copy $<TARGET_FILE:hp_native> "${HP_PYTHON_OUTPUT}/$<TARGET_FILE_NAME:hp_native>.new"
  COMMAND "${CMAKE_COMMAND}" -E rename "${HP_PYTHON_OUTPUT}/$<TARGET_FILE_NAME:hp_native>.new"
          "${HP_PYTHON_OUTPUT}/$<TARGET_FILE_NAME:hp_native>"
  VERBATIM)
