# What tests/cpp drives: single steps behind a C interface, and the fuzz targets.
if(HP_TESTING)
  add_library(hp_probe SHARED testing/probe.cpp $<TARGET_OBJECTS:hp_objects>)
  target_include_directories(hp_probe PRIVATE include src)
  target_link_libraries(hp_probe PRIVATE hp_flags ${HP_BACKEND_LIBRARIES} ${CMAKE_DL_LIBS} Threads::Threads)
  add_executable(hp_c_example testing/c_example.c)
  target_link_libraries(hp_c_example PRIVATE hp_sdk hp_flags)
endif()

# With clang, libFuzzer explores; elsewhere fuzz/mutate.cpp changes files of a folder at random.  The sources
# are compiled once more, with checksums that are not compared.
if(HP_FUZZ)
  add_library(hp_fuzz OBJECT src/bundle.cpp src/checksums.cpp src/domain_file.cpp src/files.cpp src/image.cpp
    src/inflate.cpp src/manifest.cpp src/npz.cpp src/preprocess.cpp src/resize.cpp src/windows.cpp
    tool/deflate.cpp tool/pictures.cpp tool/png.cpp tool/pnm.cpp)
  target_include_directories(hp_fuzz PUBLIC include src tool)
  target_include_directories(hp_fuzz SYSTEM PUBLIC ${HP_JSON_INCLUDE})
  target_compile_definitions(hp_fuzz PUBLIC FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION)
  target_link_libraries(hp_fuzz PUBLIC hp_flags)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(hp_fuzz PUBLIC -fsanitize=fuzzer-no-link)
    set(HP_FUZZ_LINK -fsanitize=fuzzer)
  else()
    target_sources(hp_fuzz PRIVATE fuzz/mutate.cpp)
    set(HP_FUZZ_LINK "")
  endif()
  foreach(name manifest golden picture)
    add_executable(hp_fuzz_${name} fuzz/${name}.cpp)
    target_link_libraries(hp_fuzz_${name} PRIVATE hp_fuzz ${HP_FUZZ_LINK})
  endforeach()
endif()
