# Python reaches the wire through rosidl's C side; leaving the C++ side out halves the time of the build.
list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "_cpp:")
