// Python module geomfast._cuda: device addresses and a stream in, no tensor library.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "spectra_cuda.h"

namespace {

using geomfast::CudaSpectraPlan;

void raise_if(const char* error) {
  if (error != nullptr) throw std::runtime_error(std::string("CUDA: ") + error);
}

CudaSpectraPlan spectra_plan(int device, long batch, int n) {
  if (batch < 1 || n < 1) throw std::invalid_argument("empty matrix");
  const CudaSpectraPlan plan = geomfast::cuda_spectra_plan(device, batch, n);
  raise_if(plan.error);
  return plan;
}

void spectra(const CudaSpectraPlan& plan, std::uintptr_t gram, long batch, int n, double eps,
             std::uintptr_t values, std::uintptr_t rankme, std::uintptr_t workspace,
             std::uintptr_t stream) {
  const auto doubles = [](std::uintptr_t address) { return reinterpret_cast<double*>(address); };
  raise_if(geomfast::cuda_spectra({doubles(gram), batch, n, eps, doubles(values), doubles(rankme),
                                   doubles(workspace), reinterpret_cast<void*>(stream)},
                                  plan));
}

std::string missing() {
  const char* error = nullptr;
  if (geomfast::cuda_device_count(&error) > 0) return "";
  return error != nullptr ? error : "no CUDA device";
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "Native CUDA kernels of geomfast; called by geomfast.kernels only.";
  module.def("missing", &missing, "Why no kernel can run here; empty if one can.");
  pybind11::class_<CudaSpectraPlan>(module, "SpectraPlan", "How a batch of spectra is computed.")
      .def_readonly("groups", &CudaSpectraPlan::groups)
      .def_readonly("threads", &CudaSpectraPlan::threads)
      .def_readonly("blocks", &CudaSpectraPlan::blocks)
      .def_readonly("shared", &CudaSpectraPlan::shared)
      .def_readonly("in_shared_memory", &CudaSpectraPlan::in_shared_memory)
      .def("workspace", &geomfast::cuda_spectra_workspace, pybind11::arg("batch"),
           pybind11::arg("n"), "Number of doubles of workspace.");
  module.def("spectra_plan", &spectra_plan, pybind11::arg("device"), pybind11::arg("batch"),
             pybind11::arg("n"), "The plan for a batch of Gram matrices of side n.");
  module.def("spectra", &spectra, pybind11::arg("plan"), pybind11::arg("gram"),
             pybind11::arg("batch"), pybind11::arg("n"), pybind11::arg("eps"),
             pybind11::arg("values"), pybind11::arg("rankme"), pybind11::arg("workspace"),
             pybind11::arg("stream"),
             "Queues on the stream of the current device: singular values (batch, n), descending,\n"
             "and RankMe (batch) unless that address is 0, of float64 Gram matrices\n"
             "(batch, n, n), which are used up. Only their lower triangles are read where\n"
             "plan.in_shared_memory. Returns before the work is done.");
}
