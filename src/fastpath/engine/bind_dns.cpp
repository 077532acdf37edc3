#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <netdb.h>

#include <random>
#include <system_error>

#include "bind.hpp"
#include "dns_responder.hpp"
#include "dns_server.hpp"

namespace fastpath::engine {

namespace py = pybind11;

namespace {

using dns::Counters;
using dns::Image;

std::uint64_t random_seed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

dns::Image::Piece add_piece(Image& image, const py::handle& bytes) {
  const std::string_view view = bytes.cast<py::bytes>();
  const Image::Piece piece{static_cast<std::uint32_t>(image.bytes.size()),
                           static_cast<std::uint32_t>(view.size())};
  image.bytes.insert(image.bytes.end(), view.begin(), view.end());
  return piece;
}

// (revision, rcode, authoritative, order, limit, answers, additional, authority, service) as
// python/fastpath/dns/images.py makes it.
std::shared_ptr<const Image> image_of(const py::tuple& made) {
  auto image = std::make_shared<Image>();
  image->revision = made[0].cast<std::uint64_t>();
  image->rcode = static_cast<dns::Rcode>(made[1].cast<std::uint16_t>());
  image->authoritative = made[2].cast<bool>();
  image->order = static_cast<dns::Order>(made[3].cast<std::uint8_t>());
  const auto service = made[8].cast<std::string_view>();
  image->topic = service.empty() ? -1 : dns::Source::topic_of(service);
  if (image->rcode > dns::Rcode::refused || image->order > dns::Order::weighted) {
    throw py::value_error("an image needs an rcode of 0 to 5 and an order of 0 to 2");
  }
  image->limit = made[4].cast<std::uint32_t>();
  for (const py::handle& item : made[7].cast<py::tuple>()) image->authority = add_piece(*image, item);
  for (const py::handle& item : made[6].cast<py::tuple>())
    image->additional.push_back(add_piece(*image, item));
  for (const py::handle& item : made[5].cast<py::tuple>()) {
    const auto answer = item.cast<py::tuple>();
    image->answers.push_back({add_piece(*image, answer[0]), answer[1].cast<std::uint32_t>(),
                              answer[2].cast<std::uint16_t>(), answer[3].cast<std::int32_t>()});
    if (image->answers.back().weight == 0 ||
        image->answers.back().additional >= static_cast<std::int32_t>(image->additional.size())) {
      throw py::value_error("an answer needs a weight above 0 and an additional record that exists");
    }
  }
  return image;
}

class PythonSource final : public dns::Source {
 public:
  PythonSource(py::function make, std::size_t edns_size) : Source(edns_size), make_(std::move(make)) {}
  std::shared_ptr<const Image> image(std::string_view name, std::uint16_t type) override {
    const py::gil_scoped_acquire gil;
    try {
      return image_of(make_(py::bytes(name.data(), name.size()), type).cast<py::tuple>());
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("making a DNS answer");
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      PyErr_WriteUnraisable(make_.ptr());
    }
    return nullptr;
  }

 private:
  py::function make_;
};

void count(py::dict& total, const char* name, std::uint64_t n) {
  const py::str key(name);
  total[key] = py::int_(n + (total.contains(key) ? total[key].cast<std::uint64_t>() : 0));
}

void count_answers(py::dict& total, const Counters& counters) {
  static constexpr std::pair<dns::Rcode, const char*> kNames[] = {
      {dns::Rcode::noerror, "noerror"},   {dns::Rcode::formerr, "formerr"},
      {dns::Rcode::servfail, "servfail"}, {dns::Rcode::nxdomain, "nxdomain"},
      {dns::Rcode::notimp, "notimp"},     {dns::Rcode::refused, "refused"},
      {dns::Rcode::badvers, "badvers"},
  };
  count(total, "queries", counters.queries.load());
  count(total, "ignored", counters.ignored.load());
  count(total, "truncated", counters.truncated.load());
  count(total, "misses", counters.misses.load());
  for (const auto& [rcode, name] : kNames) {
    count(total, name, counters.rcodes[static_cast<std::size_t>(rcode)].load());
  }
}

// Answers messages in the caller's thread, under the GIL.
class DnsResponder {
 public:
  DnsResponder(py::function make, std::size_t edns_size)
      : source_(std::make_shared<PythonSource>(std::move(make), edns_size)),
        responder_(*source_, random_seed()) {}

  py::bytes respond(const py::bytes& message, std::size_t max_size) {
    if (max_size < dns::kMinUdpSize || max_size > dns::kMaxMessage) {
      throw py::value_error("max_size must be 512 to 65535, not " + std::to_string(max_size));
    }
    const std::string_view view = message;
    // On the heap: the callback may let another thread in here.
    std::unique_ptr<std::uint8_t[]> out(new std::uint8_t[std::max(max_size, source_->edns_size)]);
    const std::size_t size = responder_.respond(reinterpret_cast<const std::uint8_t*>(view.data()),
                                                view.size(), max_size, out.get());
    return {reinterpret_cast<const char*>(out.get()), size};
  }
  void changed(std::uint64_t revision, std::string_view service) { source_->changed(revision, service); }
  void all_changed(std::uint64_t revision) { source_->all_changed(revision); }
  py::dict stats() const {
    py::dict total;
    count_answers(total, responder_.counters());
    return total;
  }
  const std::shared_ptr<PythonSource>& source() const { return source_; }

 private:
  std::shared_ptr<PythonSource> source_;
  dns::Responder responder_;
};

class DnsListener {
 public:
  DnsListener(const DnsResponder& responder, const std::string& host, std::uint16_t port,
              const std::string& netns, std::size_t max_connections, double idle_s)
      : source_(responder.source()) {
    dns::ServerOptions options;
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_DGRAM;
    addrinfo* found = nullptr;
    if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
      throw py::value_error("host must be an IPv4 or IPv6 address, not '" + host + "'");
    }
    std::memcpy(&options.address, found->ai_addr, found->ai_addrlen);
    options.address_size = found->ai_addrlen;
    ::freeaddrinfo(found);
    options.netns = netns;
    options.max_connections = max_connections;
    options.idle = std::chrono::milliseconds(static_cast<std::int64_t>(idle_s * 1000));
    const std::uint64_t seed = random_seed();
    const Unlocked unlocked;
    server_ = std::make_unique<dns::Server>(*source_, options, seed);
  }
  ~DnsListener() { stop(); }

  void stop() {
    // The threads may be waiting for the GIL to make an image.
    const Unlocked unlocked;
    if (server_) server_->stop();
  }
  // The child of a fork has no threads to wait for, so the object is left behind as it is.
  void abandon() {
    if (server_) server_.release()->abandon();
  }
  std::uint16_t port() const { return server().port(); }
  py::dict stats() const {
    py::dict total;
    count_answers(total, server().udp_answers());
    count_answers(total, server().tcp_answers());
    const dns::ServerCounters& counters = server().counters();
    count(total, "udp_queries", counters.udp_queries.load());
    count(total, "udp_dropped", counters.udp_dropped.load());
    count(total, "tcp_queries", counters.tcp_queries.load());
    count(total, "tcp_connections", counters.tcp_connections.load());
    count(total, "tcp_closed_for_room", counters.tcp_closed_for_room.load());
    return total;
  }

 private:
  const dns::Server& server() const {
    if (!server_) throw std::runtime_error("a DNS server does not run on in the child of a fork");
    return *server_;
  }

  std::shared_ptr<PythonSource> source_;
  std::unique_ptr<dns::Server> server_;
};

}  // namespace

void bind_dns(py::module_& module) {
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const std::system_error& failure) {
      const py::object arguments = py::make_tuple(failure.code().value(), failure.what());
      PyErr_SetObject(PyExc_OSError, arguments.ptr());
    }
  });
  py::class_<DnsResponder>(module, "DnsResponder", "Answers DNS messages from images that a callable makes.")
      .def(py::init<py::function, std::size_t>(), py::arg("make"), py::arg("edns_size"))
      .def("respond", &DnsResponder::respond, py::arg("message"), py::arg("max_size"))
      .def("changed", &DnsResponder::changed, py::arg("revision"), py::arg("service"))
      .def("all_changed", &DnsResponder::all_changed, py::arg("revision"))
      .def("stats", &DnsResponder::stats);
  py::class_<DnsListener>(module, "DnsListener", "UDP and TCP threads in front of a responder.")
      .def(py::init<const DnsResponder&, const std::string&, std::uint16_t, const std::string&, std::size_t,
                    double>(),
           py::arg("responder"), py::arg("host"), py::arg("port"), py::arg("netns"),
           py::arg("max_connections"), py::arg("idle_s"))
      .def("stop", &DnsListener::stop)
      .def("abandon", &DnsListener::abandon, "In the child of a fork: close the sockets, forget the threads.")
      .def_property_readonly("port", &DnsListener::port)
      .def("stats", &DnsListener::stats);
}

}  // namespace fastpath::engine
