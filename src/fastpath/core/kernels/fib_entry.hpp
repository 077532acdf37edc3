// The entry points of one kernel file, which has defined many4 and many6 before.

// Each entry point chooses the leaf's width once a call.
std::uint32_t lookup4(const View& view, std::uint32_t address) {
  return view.short_leaves ? find4<std::uint16_t>(view, address) : find4<std::uint32_t>(view, address);
}
std::uint32_t lookup6(const View& view, const std::uint8_t* address) {
  return view.short_leaves ? find6<std::uint16_t>(view, address) : find6<std::uint32_t>(view, address);
}
Match match4(const View& view, std::uint32_t address) {
  return view.short_leaves ? trace4<std::uint16_t>(view, address) : trace4<std::uint32_t>(view, address);
}
Match match6(const View& view, const std::uint8_t* address) {
  return view.short_leaves ? trace6<std::uint16_t>(view, address) : trace6<std::uint32_t>(view, address);
}
void lookup_many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) {
  const View local = view;
  if (local.short_leaves) {
    many4<std::uint16_t>(local, addresses, out, n, missing);
  } else {
    many4<std::uint32_t>(local, addresses, out, n, missing);
  }
}
void lookup_many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) {
  const View local = view;
  if (local.short_leaves) {
    many6<std::uint16_t>(local, addresses, out, n, missing);
  } else {
    many6<std::uint32_t>(local, addresses, out, n, missing);
  }
}
void match_many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::uint8_t* lengths,
                 std::size_t n, std::uint32_t missing) {
  if (view.short_leaves) {
    trace_loop4<std::uint16_t>(view, addresses, out, lengths, n, missing);
  } else {
    trace_loop4<std::uint32_t>(view, addresses, out, lengths, n, missing);
  }
}
void match_many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::uint8_t* lengths,
                 std::size_t n, std::uint32_t missing) {
  if (view.short_leaves) {
    trace_loop6<std::uint16_t>(view, addresses, out, lengths, n, missing);
  } else {
    trace_loop6<std::uint32_t>(view, addresses, out, lengths, n, missing);
  }
}

constexpr Kernels kKernels = {lookup4,      lookup6,      match4,      match6,
                              lookup_many4, lookup_many6, match_many4, match_many6};
