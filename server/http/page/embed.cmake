# Writes OUT, a C++ file with the contents of FILES, which are names in FOLDER with commas between them.
string(REPLACE "," ";" names "${FILES}")
set(arrays "")
set(entries "")
foreach(name IN LISTS names)
  file(READ ${FOLDER}/${name} bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(MAKE_C_IDENTIFIER ${name} id)
  string(APPEND arrays "constexpr unsigned char ${id}[] = {${bytes}};\n")
  string(APPEND entries "      {\"${name}\", {reinterpret_cast<const char*>(${id}), sizeof ${id}}},\n")
endforeach()
file(WRITE ${OUT} "// Generated from server/http/page.
#include \"server/http/page_files.h\"

namespace kvasir {
namespace {

${arrays}
}  // namespace

const std::vector<PageFile>& PageFiles() {
  static const auto* const files = new std::vector<PageFile>{
${entries}  };
  return *files;
}

}  // namespace kvasir
")
