#pragma once
// UTF-8 (RFC 3629): what JSON can hold and a terminal can show.
#include <string_view>

namespace pipecast {

// The bytes of the character that `text` begins with: 1 to 4; 0 where it begins with none.
size_t utf8_character(std::string_view text);
bool is_utf8(std::string_view text);
// A text without the byte order mark that Windows puts before it.
std::string_view without_byte_order_mark(std::string_view text);

}  // namespace pipecast
