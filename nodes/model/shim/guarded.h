// An exception of C++ must not reach Rust.
#pragma once

#include <cstring>
#include <exception>

// Returns 0, or 1 with the message of an exception copied into `error` (`room` bytes).
template <class F>
int guarded(char* error, size_t room, F f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    std::strncpy(error, e.what(), room - 1);
    error[room - 1] = 0;
    return 1;
  }
}
