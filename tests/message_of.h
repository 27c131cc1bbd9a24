#pragma once
// What a call throws, as text.
#include <doctest/doctest.h>

namespace pipecast::testing {

// E's or a derived type's; any other goes through.
template <class E, class F>
doctest::String message_of(const F& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace pipecast::testing
