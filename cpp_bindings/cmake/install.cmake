# Headers, library, tool, find_package(hp_sdk) and pkg-config.
install(TARGETS hp_sdk EXPORT hp_sdk-targets)
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(HP_TOOL)
  install(TARGETS hp_parse)
endif()

set(HP_CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/hp_sdk)
install(EXPORT hp_sdk-targets NAMESPACE hp_sdk:: DESTINATION ${HP_CONFIG_DIR})
configure_package_config_file(cmake/hp_sdk-config.cmake.in hp_sdk-config.cmake
  INSTALL_DESTINATION ${HP_CONFIG_DIR})
write_basic_package_version_file(hp_sdk-config-version.cmake COMPATIBILITY SameMinorVersion)
# Relative, so that the folder can be moved.
file(RELATIVE_PATH HP_INCLUDE_FROM_PC ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/hp_sdk.pc.in hp_sdk.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/hp_sdk-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/hp_sdk-config-version.cmake DESTINATION ${HP_CONFIG_DIR})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/hp_sdk.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# The shipped models, so that hp::Parser::load("cihp") works after the installation.
install(DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/../hp_sdk/bundles/
  DESTINATION ${CMAKE_INSTALL_DATADIR}/hp_sdk/bundles OPTIONAL)
