// The entry points of one kernel file, which has defined many4 and many6 before.

// Each entry point chooses the leaf's width once a call.
template <typename F>
inline auto with_leaf(const View& view, F&& f) {
  if (view.leaf_bits == 32) return f.template operator()<std::uint32_t>();
  if (view.leaf_bits == 16) return f.template operator()<std::uint16_t>();
  return f.template operator()<Packed>();
}
std::uint32_t lookup4(const View& view, std::uint32_t address) {
  return with_leaf(view, [&]<typename Leaf>() { return find4<Leaf>(view, address); });
}
std::uint32_t lookup6(const View& view, const std::uint8_t* address) {
  return with_leaf(view, [&]<typename Leaf>() { return find6<Leaf>(view, address); });
}
Match match4(const View& view, std::uint32_t address) {
  return with_leaf(view, [&]<typename Leaf>() { return trace4<Leaf>(view, address); });
}
Match match6(const View& view, const std::uint8_t* address) {
  return with_leaf(view, [&]<typename Leaf>() { return trace6<Leaf>(view, address); });
}
void lookup_many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) {
  const View local = view;
  with_leaf(local, [&]<typename Leaf>() { many4<Leaf>(local, addresses, out, n, missing); });
}
void lookup_many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) {
  const View local = view;
  with_leaf(local, [&]<typename Leaf>() { many6<Leaf>(local, addresses, out, n, missing); });
}
void match_many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::uint8_t* lengths,
                 std::size_t n, std::uint32_t missing) {
  with_leaf(view, [&]<typename Leaf>() { trace_loop4<Leaf>(view, addresses, out, lengths, n, missing); });
}
void match_many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::uint8_t* lengths,
                 std::size_t n, std::uint32_t missing) {
  with_leaf(view, [&]<typename Leaf>() { trace_loop6<Leaf>(view, addresses, out, lengths, n, missing); });
}

constexpr Kernels kKernels = {lookup4,      lookup6,      match4,      match6,
                              lookup_many4, lookup_many6, match_many4, match_many6};
