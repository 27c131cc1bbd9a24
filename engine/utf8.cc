#include "engine/utf8.h"

namespace pipecast {

size_t utf8_character(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const size_t size = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (text.size() < size) return 0;
  unsigned code = byte(0) & (0x7Fu >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3Fu);
  }
  // Not in more bytes than it needs, no half of a UTF-16 pair, nothing beyond Unicode's last.
  const unsigned least[] = {0x80, 0x800, 0x10000};
  const bool valid = byte(0) >= 0xC0 && byte(0) < 0xF8 && code >= least[size - 2] && (code < 0xD800 || code > 0xDFFF) && code <= 0x10FFFF;
  return valid ? size : 0;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t size = utf8_character(text);
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

std::string_view without_byte_order_mark(std::string_view text) { return text.substr(text.starts_with("\xEF\xBB\xBF") ? 3 : 0); }

}  // namespace pipecast
