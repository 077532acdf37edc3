// The keys of backends by id, one after another in one piece of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fastpath/balance/table.hpp"

namespace fastpath::balance {

class Keys {
 public:
  void reserve(std::size_t ids) { places_.reserve(ids); }
  void resize(std::size_t ids) { places_.resize(ids); }
  bool empty() const noexcept { return places_.empty(); }

  // Holds until the next change.
  std::string_view operator[](Id id) const noexcept {
    return {text_.data() + places_[id].begin, places_[id].size};
  }
  void set(Id id, std::string_view key) {
    const std::size_t begin = text_.size();
    if (begin >= std::uint64_t{1} << 36 || key.size() >= std::uint64_t{1} << 28) {
      throw std::length_error("the keys of backends are too long");
    }
    text_.append(key);
    unused_ += places_[id].size;
    places_[id] = {begin, key.size()};
  }
  void forget(Id id) noexcept {
    unused_ += places_[id].size;
    places_[id] = {};
  }
  // Gives back what edits have left over, if that is much.
  void tidy() {
    if (4 * (text_.capacity() - text_.size() + unused_) <= text_.size() + 256) return;
    std::string text;
    text.reserve(text_.size() - unused_);
    for (Place& place : places_) {
      const std::size_t begin = text.size();
      text.append(text_, place.begin, place.size);
      place.begin = begin;
    }
    text_ = std::move(text);
    unused_ = 0;
  }

  std::size_t nbytes() const noexcept { return places_.capacity() * sizeof(Place) + text_.capacity(); }

 private:
  struct Place {
    std::uint64_t begin : 36 = 0;
    std::uint64_t size : 28 = 0;
  };

  std::vector<Place> places_;
  std::string text_;
  std::size_t unused_ = 0;
};

}  // namespace fastpath::balance
