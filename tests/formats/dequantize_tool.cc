// For gguf_package_test.py: every tensor of a GGUF file as f32, on standard output, each as
// "NAME COUNT\n" and COUNT little-endian floats. Tensors whose type is no weight are left out.

#include <cstdio>
#include <vector>

#include "runtime/formats/dequantize.h"
#include "runtime/formats/gguf_file.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: dequantize_tool FILE.gguf\n");
    return 2;
  }
  const auto file = kvasir::GgufFile::Open(argv[1]);
  if (!file.ok()) {
    std::fprintf(stderr, "%s\n", file.status().ToString().c_str());
    return 1;
  }
  for (const auto& [name, tensor] : file->tensors()) {
    const auto format = kvasir::ToWeightFormat(tensor.info.type.type);
    if (!format) continue;
    size_t count = 1;
    for (const int64_t dimension : tensor.info.shape) count *= static_cast<size_t>(dimension);
    std::vector<float> values(count);
    kvasir::Dequantize(*format, file->Bytes(tensor).data(), static_cast<int64_t>(count),
                       values.data());
    std::printf("%.*s %zu\n", static_cast<int>(name.size()), name.data(), count);
    if (std::fwrite(values.data(), sizeof(float), count, stdout) != count) return 1;
  }
  return 0;
}
