#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <cstring>
#include <system_error>

#include "bind.hpp"
#include "port_memory.hpp"
#include "port_packet.hpp"
#include "port_pcap.hpp"
#include "port_tap.hpp"
#include "switch_worker.hpp"

namespace py = pybind11;

namespace fastpath::engine {

namespace {

// Runs `body` without the GIL; a std::system_error becomes OSError(errno, text).
template <typename Body>
auto os_errors(Body&& body) {
  try {
    const Unlocked unlocked;
    return body();
  } catch (const std::system_error& error) {
    // what() is "text: strerror"; OSError wants the two apart.
    const std::string text = error.what();
    py::object arguments = py::make_tuple(error.code().value(), text);
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  }
  throw py::error_already_set();
}

template <typename Table>
const Table& table_of(const py::capsule& capsule, const char* name) {
  const auto* table = static_cast<const Table*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (table == nullptr) throw py::error_already_set();
  if (table->version < 1) throw py::value_error(std::string(name) + ": unknown version");
  return *table;
}

py::dict counters_of(const SwitchPort& port) {
  const PortCounters& from = port.counters;
  py::dict drops;
  for (std::size_t i = 1; i < from.rx_drops.size(); ++i) {
    drops[drop_name(static_cast<Drop>(i))] = from.rx_drops[i].get();
  }
  for (std::size_t i = kFirstFailure; i < from.tx_drops.size(); ++i) {
    drops[py::str(std::string("tx_") + transmit_name(static_cast<Transmit>(i)))] = from.tx_drops[i].get();
  }
  py::dict out;
  out["rx_packets"] = from.rx_packets.get();
  out["rx_bytes"] = from.rx_bytes.get();
  out["tx_packets"] = from.tx_packets.get();
  out["tx_bytes"] = from.tx_bytes.get();
  out["floods"] = from.floods.get();
  out["drops"] = drops;
  return out;
}

// The worker as Python holds it: it keeps the capsules, and so the tables, alive.
class SwitchHandle {
 public:
  SwitchHandle(const std::string& name, std::size_t mtu, std::size_t max_pairs, py::capsule forwarding,
               py::capsule fdb)
      : forwarding_(std::move(forwarding)),
        fdb_(std::move(fdb)),
        worker_(std::make_unique<SwitchWorker>(
            SwitchSettings{name, mtu, max_pairs},
            table_of<fastpath_forwarding_v1>(forwarding_, FASTPATH_FORWARDING_CAPSULE),
            table_of<fastpath_fdb_v1>(fdb_, FASTPATH_FDB_CAPSULE))) {}
  ~SwitchHandle() {
    const Unlocked unlocked;
    worker_.reset();
  }
  SwitchHandle(const SwitchHandle&) = delete;
  SwitchHandle& operator=(const SwitchHandle&) = delete;

  SwitchWorker& worker() const {
    if (!worker_) throw std::runtime_error("a switch cannot be used in the child of a fork");
    return *worker_;
  }
  bool abandoned() const { return !worker_; }
  // The child of a fork has no worker thread to wait for, so the object is left behind as it is.
  void abandon() {
    if (worker_) worker_.release()->abandon();
  }

 private:
  py::capsule forwarding_;
  py::capsule fdb_;
  std::unique_ptr<SwitchWorker> worker_;
};

// A port as Python holds it.
struct PortHandle {
  std::shared_ptr<SwitchPort> port;
  std::shared_ptr<MemoryPort> memory;  // of memory ports
  std::string mac;                     // 6 bytes, of interfaces
  unsigned offloads = 0;               // TUN_F_* that the kernel accepted

  MemoryPort& rings() const {
    if (!memory) throw py::type_error("not a memory port");
    return *memory;
  }
};

LinkSettings link_settings(std::uint32_t mtu, const py::object& mac, const py::sequence& addresses) {
  LinkSettings settings;
  settings.mtu = mtu;
  if (!mac.is_none()) {
    const auto bytes = mac.cast<std::string>();
    if (bytes.size() != 6) throw py::value_error("mac: expected 6 bytes");
    settings.mac.emplace();
    std::memcpy(settings.mac->data(), bytes.data(), 6);
  }
  for (const py::handle item : addresses) {
    const auto [bytes, prefixlen] = item.cast<std::pair<std::string, std::uint8_t>>();
    if (bytes.size() != 4 && bytes.size() != 16) throw py::value_error("address: expected 4 or 16 bytes");
    settings.addresses.push_back({{bytes.begin(), bytes.end()}, prefixlen});
  }
  return settings;
}

PortHandle attach_tap(SwitchHandle& self, const std::string& netns, const std::string& ifname,
                      std::uint32_t mtu, const py::object& mac, const py::sequence& addresses,
                      std::uint16_t segment) {
  const LinkSettings settings = link_settings(mtu, mac, addresses);
  SwitchWorker& worker = self.worker();
  return os_errors([&] {
    PortHandle handle;
    std::shared_ptr<TapPort> tap = TapPort::create(netns, ifname, settings);
    handle.mac.assign(tap->mac().begin(), tap->mac().end());
    handle.offloads = tap->offloads();
    handle.port = worker.add_port(std::move(tap), segment);
    return handle;
  });
}

PortHandle attach_interface(SwitchHandle& self, const std::string& ifname, std::uint16_t segment) {
  SwitchWorker& worker = self.worker();
  return os_errors([&] {
    PortHandle handle;
    std::shared_ptr<PacketPort> packet = PacketPort::open(ifname);
    handle.mac.assign(packet->mac().begin(), packet->mac().end());
    handle.port = worker.add_port(std::move(packet), segment);
    return handle;
  });
}

PortHandle attach_pcap(SwitchHandle& self, const py::object& bytes, int file, std::uint16_t segment) {
  Descriptor out(file);
  std::unique_ptr<PcapReader> reader;
  if (!bytes.is_none()) reader = std::make_unique<PcapReader>(bytes.cast<std::string>());
  // Only now, so that a broken file to read costs nobody the other one. Pipes and devices have no length.
  if (out.get() >= 0) static_cast<void>(::ftruncate(out.get(), 0));
  SwitchWorker& worker = self.worker();
  return os_errors([&] {
    std::unique_ptr<Capture> writer;
    if (out.get() >= 0) writer = std::make_unique<Capture>(std::move(out), kNoPort);
    PortHandle handle;
    handle.port = worker.add_port(std::make_shared<PcapPort>(std::move(reader), std::move(writer)), segment);
    return handle;
  });
}

PortHandle attach_memory(SwitchHandle& self, std::size_t capacity, bool vnet_header, bool discard,
                         std::uint16_t segment) {
  SwitchWorker& worker = self.worker();
  return os_errors([&] {
    PortHandle handle;
    handle.memory = std::make_shared<MemoryPort>(capacity, vnet_header, discard);
    handle.port = worker.add_port(handle.memory, segment);
    return handle;
  });
}

// Frames in, one after the other; stops at the first for which there is no room.
std::size_t push(SwitchHandle& self, const PortHandle& handle, const std::vector<py::buffer>& frames) {
  MemoryPort& memory = handle.rings();
  const std::size_t least = memory.vnet_header() ? kVnetLength : 0;
  const std::size_t most = kMaxFrame + least;
  std::vector<py::buffer_info> views;
  views.reserve(frames.size());
  for (const py::buffer& frame : frames) {
    views.push_back(frame.request());
    const py::buffer_info& view = views.back();
    if (view.ndim != 1 || view.itemsize != 1 || view.strides[0] != 1) {
      throw py::type_error("frame: expected contiguous bytes");
    }
    const auto length = static_cast<std::size_t>(view.size);
    if (length < least || length > most) {
      throw py::value_error("frame of " + std::to_string(length) + " bytes: expected " +
                            std::to_string(least) + " to " + std::to_string(most));
    }
  }
  SwitchWorker& worker = self.worker();
  const Unlocked unlocked;
  const std::lock_guard lock(memory.push_mutex());
  std::size_t done = 0;
  while (done < views.size() && memory.push(static_cast<const std::uint8_t*>(views[done].ptr),
                                            static_cast<std::size_t>(views[done].size))) {
    ++done;
  }
  if (done > 0) worker.wake_if_asleep();
  return done;
}

// The rows of a matrix of bytes: frames of one length.
std::size_t push_rows(SwitchHandle& self, const PortHandle& handle, const py::buffer& frames) {
  MemoryPort& memory = handle.rings();
  const py::buffer_info view = frames.request();
  if (view.ndim != 2 || view.itemsize != 1 || (view.size > 0 && view.strides[1] != 1)) {
    throw py::type_error("frames: expected a C-contiguous uint8[n, length] array");
  }
  const auto length = static_cast<std::size_t>(view.shape[1]);
  const std::size_t least = memory.vnet_header() ? kVnetLength : 0;
  if (length < least || length > kMaxFrame + least) {
    throw py::value_error("frames of " + std::to_string(length) + " bytes: expected " +
                          std::to_string(least) + " to " + std::to_string(kMaxFrame + least));
  }
  SwitchWorker& worker = self.worker();
  const Unlocked unlocked;
  const std::lock_guard lock(memory.push_mutex());
  const auto* rows = static_cast<const std::uint8_t*>(view.ptr);
  py::ssize_t done = 0;
  while (done < view.shape[0] && memory.push(rows + done * view.strides[0], length)) ++done;
  if (done > 0) worker.wake_if_asleep();
  return static_cast<std::size_t>(done);
}

py::list pop(const PortHandle& handle, std::size_t limit) {
  MemoryPort& memory = handle.rings();
  // Taken without waiting for the lock under the GIL: another thread may hold it while it waits for the GIL.
  std::unique_lock lock(memory.pop_mutex(), std::defer_lock);
  {
    const Unlocked unlocked;
    lock.lock();
  }
  py::list out;
  while (out.size() < limit && memory.pop([&](const std::uint8_t* bytes, std::size_t length) {
    out.append(py::bytes(reinterpret_cast<const char*>(bytes), length));
  })) {
  }
  return out;
}

py::dict stats(const SwitchHandle& self) {
  const SwitchWorker::Counters& from = self.worker().counters();
  py::dict out;
  out["rounds"] = from.rounds.get();
  out["frames"] = from.frames.get();
  out["faults"] = from.faults.get();
  out["pair_hits"] = from.pair_hits.get();
  out["fdb_hits"] = from.fdb_hits.get();
  out["floods"] = from.floods.get();
  out["learned"] = from.learned.get();
  out["pairs"] = from.pairs.get();
  out["pairs_inserted"] = from.pairs_inserted.get();
  out["pairs_erased"] = from.pairs_erased.get();
  return out;
}

py::list pairs(const SwitchHandle& self) {
  const std::vector<Pair> copies = os_errors([&] { return self.worker().pairs(); });
  py::list out;
  for (const Pair& pair : copies) {
    out.append(py::make_tuple(pair.source, pair.destination, pair.port, pair.segment, pair.packets,
                              pair.bytes, pair.learned));
  }
  return out;
}

}  // namespace

void bind_switch(py::module_& module) {
  py::class_<PortHandle>(module, "SwitchPort", "One port of a SwitchWorker; fastpath.Port is its face.")
      .def_property_readonly("number", [](const PortHandle& self) { return self.port->number; })
      .def_property_readonly("segment", [](const PortHandle& self) { return self.port->segment; })
      .def_property_readonly("up", [](const PortHandle& self) { return self.port->up.load(); })
      .def_property_readonly("mac", [](const PortHandle& self) { return py::bytes(self.mac); })
      .def_property_readonly("offloads", [](const PortHandle& self) { return self.offloads; })
      .def("counters", [](const PortHandle& self) { return counters_of(*self.port); })
      .def("pop", &pop, py::arg("limit"), "The oldest frames that the switch sent to a memory port.");

  py::class_<SwitchHandle>(module, "SwitchWorker",
                           "The thread and the ports of one switch; fastpath.Switch is its face.")
      .def(py::init<const std::string&, std::size_t, std::size_t, py::capsule, py::capsule>(),
           py::arg("name"), py::arg("mtu"), py::arg("max_pairs"), py::arg("forwarding"), py::arg("fdb"))
      .def("start", [](SwitchHandle& self) { os_errors([&] { self.worker().start(); }); })
      .def("stop",
           [](SwitchHandle& self) {
             if (!self.abandoned()) os_errors([&] { self.worker().stop(); });
           })
      .def("close",
           [](SwitchHandle& self) {
             if (!self.abandoned()) os_errors([&] { self.worker().close(); });
           })
      .def_property_readonly(
          "running", [](const SwitchHandle& self) { return !self.abandoned() && self.worker().running(); })
      .def("attach_tap", &attach_tap, py::arg("netns"), py::arg("ifname"), py::arg("mtu"), py::arg("mac"),
           py::arg("addresses"), py::arg("segment"),
           "Make a TAP interface in a namespace (\"\": the current one) and add it as a port.")
      .def("attach_interface", &attach_interface, py::arg("ifname"), py::arg("segment"),
           "Add an existing interface of the current namespace as a port.")
      .def("attach_pcap", &attach_pcap, py::arg("bytes"), py::arg("file"), py::arg("segment"),
           "Add a port that reads from a pcap file in memory (or None) and writes one to a descriptor (or "
           "-1).")
      .def("attach_memory", &attach_memory, py::arg("capacity"), py::arg("vnet_header"), py::arg("discard"),
           py::arg("segment"), "Add a port whose other end is push() and pop().")
      .def(
          "detach",
          [](SwitchHandle& self, std::uint32_t number) {
            return os_errors([&] { return self.worker().remove_port(number); });
          },
          py::arg("number"), "Remove a port and close what is behind it; False: there is none.")
      .def(
          "inject",
          [](SwitchHandle& self, std::uint32_t number, const std::vector<std::string>& frames) {
            os_errors([&] { self.worker().inject(number, frames); });
          },
          py::arg("number"), py::arg("frames"), "Handle frames as if a port had sent them.")
      .def("push", &push, py::arg("port"), py::arg("frames"), "Frames into a memory port; how many had room.")
      .def("push_rows", &push_rows, py::arg("port"), py::arg("frames"),
           "The same for a uint8[n, length] array.")
      .def(
          "settle", [](SwitchHandle& self) { os_errors([&] { self.worker().settle(); }); },
          "Wait until the frames in memory ports have been handled.")
      .def("pairs", &pairs, "(source, destination, port, segment, packets, bytes, learned) of each pair.")
      .def("stats", &stats)
      .def(
          "add_capture",
          [](SwitchHandle& self, int file, std::uint32_t port) {
            Descriptor out(file);  // closed whatever happens
            return os_errors([&] { return self.worker().add_capture(std::move(out), port); });
          },
          py::arg("file"), py::arg("port"), "Write a pcap into the descriptor `file`, which it takes over.")
      .def(
          "remove_capture",
          [](SwitchHandle& self, std::uint64_t id) {
            return os_errors([&] { return self.worker().remove_capture(id); });
          },
          py::arg("id"), "End a capture; the number of frames written.")
      .def("abandon", &SwitchHandle::abandon,
           "In the child of a fork: close the descriptors, forget the thread.");
}

}  // namespace fastpath::engine
