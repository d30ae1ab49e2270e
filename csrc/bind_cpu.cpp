// Python module geomfast._cpu: integer addresses in, no tensor library, the GIL released.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gradient_gram_cpu.h"
#include "member_norm_cpu.h"
#include "row_attention_cpu.h"
#include "sgld_cpu.h"
#include "spectra_cpu.h"
#include "spectra_on_host.h"

namespace {

using geomfast::SpectraJob;
using geomfast::SpectraKernel;

template <class Kernel>
const Kernel& checked(const Kernel* kernel, const std::string& isa) {
  if (kernel == nullptr) {
    throw std::invalid_argument("instruction set '" + isa + "' cannot run on this processor");
  }
  return *kernel;
}

const SpectraKernel& kernel_for(const std::string& isa) {
  return checked(geomfast::spectra_kernel(isa.c_str()), isa);
}

std::pair<long, int> singular_values(std::uintptr_t data, int dtype, long batch, long rows,
                                     long cols, long batch_stride, long row_stride,
                                     std::uintptr_t out, int threads, const std::string& isa) {
  const SpectraKernel& kernel = kernel_for(isa);
  if (dtype != 0 && dtype != 1) throw std::invalid_argument("dtype must be 0 or 1");
  if (batch < 0 || rows < 1 || cols < 1) throw std::invalid_argument("empty matrix");
  pybind11::gil_scoped_release release;
  if (batch == 0) return {-1, geomfast::kOk};
  std::vector<geomfast::Status> status(batch, geomfast::kOk);
  SpectraJob job{reinterpret_cast<const void*>(data),
                 static_cast<geomfast::DType>(dtype),
                 batch,
                 rows,
                 cols,
                 batch_stride,
                 row_stride,
                 reinterpret_cast<double*>(out),
                 nullptr,
                 status.data()};
  geomfast::singular_values(job, kernel, threads);
  for (long i = 0; i < batch; ++i) {
    if (status[i] != geomfast::kOk) return {i, status[i]};
  }
  return {-1, geomfast::kOk};
}

// Address, sample stride and position stride.
using Matrix = std::tuple<std::uintptr_t, long, long>;
// Left factor, address of its indices where it is one-hot, right factor, length.
using Use = std::tuple<Matrix, std::uintptr_t, Matrix, long>;

void gradient_gram(const std::vector<Use>& uses, int dtype, long samples, long rows, long columns,
                   const std::string& way, long max_bytes, std::uintptr_t out, int threads,
                   const std::string& isa) {
  const auto& kernels = checked(geomfast::gradient_gram_kernels(isa.c_str()), isa);
  if (dtype != 0 && dtype != 1) throw std::invalid_argument("dtype must be 0 or 1");
  if (samples < 1 || rows < 1 || columns < 1) throw std::invalid_argument("empty factors");
  if (way != "ghost" && way != "materialised" && way != "centred") {
    throw std::invalid_argument("way must be ghost, materialised or centred");
  }
  std::vector<geomfast::GradientUse> list;
  const auto factor = [](const Matrix& matrix) {
    return geomfast::Factor{reinterpret_cast<const void*>(std::get<0>(matrix)),
                            std::get<1>(matrix), std::get<2>(matrix)};
  };
  for (const auto& [left, indices, right, length] : uses) {
    if (length < 1) throw std::invalid_argument("a use without positions");
    const long long* index = reinterpret_cast<const long long*>(indices);
    for (long i = 0; index != nullptr && i < samples * length; ++i) {
      if (index[i] < 0 || index[i] >= rows) {
        throw pybind11::index_error("row " + std::to_string(index[i]) + " of a parameter of " +
                                    std::to_string(rows) + " rows");
      }
    }
    list.push_back({factor(left), index, factor(right), length});
  }
  pybind11::gil_scoped_release release;
  const geomfast::GradientGramJob job{static_cast<geomfast::DType>(dtype),
                                      samples,
                                      rows,
                                      columns,
                                      list.data(),
                                      static_cast<long>(list.size()),
                                      max_bytes,
                                      reinterpret_cast<double*>(out)};
  if (way == "ghost") {
    geomfast::ghost_gram(job, kernels, threads);
  } else {
    geomfast::materialised_gram(job, kernels, way == "centred", threads);
  }
}

void member_norm(std::uintptr_t x, std::uintptr_t gain, std::uintptr_t bias, std::uintptr_t into,
                 std::uintptr_t statistics, std::uintptr_t out, std::uintptr_t gain_gradient,
                 std::uintptr_t bias_gradient, long members, long tokens, long size, long stride,
                 long gradient_stride, float eps, int threads, const std::string& isa) {
  const auto& kernel = checked(geomfast::member_norm_kernel(isa.c_str()), isa);
  if (members < 0 || tokens < 0 || size < 1) throw std::invalid_argument("empty tokens");
  pybind11::gil_scoped_release release;
  geomfast::member_norm({reinterpret_cast<const float*>(x), reinterpret_cast<const float*>(gain),
                         reinterpret_cast<const float*>(bias),
                         reinterpret_cast<const float*>(into),
                         reinterpret_cast<float*>(statistics), reinterpret_cast<float*>(out),
                         reinterpret_cast<float*>(gain_gradient),
                         reinterpret_cast<float*>(bias_gradient), members, tokens, size, stride,
                         gradient_stride, eps},
                        kernel, threads);
}

void row_attention(std::uintptr_t qkv, std::uintptr_t into, std::uintptr_t offsets,
                   std::uintptr_t out, long members, long rows, long heads, long width, int threads,
                   const std::string& isa, std::uintptr_t slopes) {
  const auto& kernel = checked(geomfast::row_attention_kernel(isa.c_str()), isa);
  if (members < 0 || rows < 0 || heads < 1 || width < 1) {
    throw std::invalid_argument("empty heads");
  }
  const long long* const first = reinterpret_cast<const long long*>(offsets);
  if (first[0] != 0) throw std::invalid_argument("offsets must begin with 0");
  long longest = 0;
  for (long i = 0; i < rows; ++i) {
    if (first[i + 1] < first[i]) throw std::invalid_argument("offsets must not fall");
    longest = std::max<long>(longest, first[i + 1] - first[i]);
  }
  pybind11::gil_scoped_release release;
  geomfast::row_attention({reinterpret_cast<const float*>(qkv),
                           reinterpret_cast<const float*>(into), reinterpret_cast<float*>(out),
                           first, members, rows, longest, heads, width,
                           reinterpret_cast<const float*>(slopes)},
                          kernel, threads);
}

const geomfast::SgldKernel& sgld_kernel_for(const std::string& isa) {
  return checked(geomfast::sgld_kernel(isa.c_str()), isa);
}

void sgld_step(std::uintptr_t weights, std::uintptr_t gradients, std::uintptr_t center,
               std::uintptr_t previous, std::uintptr_t velocity, std::uintptr_t active,
               long chains, long size, unsigned first_chain, std::uint64_t seed,
               std::uint64_t step, float pull, float back, float spread, float keep,
               std::uintptr_t statistics, int threads, const std::string& isa) {
  const auto& kernel = sgld_kernel_for(isa);
  if (chains < 0 || size < 0) throw std::invalid_argument("a negative size");
  pybind11::gil_scoped_release release;
  const geomfast::SgldRow first{reinterpret_cast<float*>(weights),
                                reinterpret_cast<const float*>(gradients),
                                reinterpret_cast<const float*>(center),
                                reinterpret_cast<float*>(previous),
                                reinterpret_cast<float*>(velocity),
                                {seed, step, first_chain},
                                pull,
                                back,
                                spread,
                                keep};
  geomfast::sgld_step({first, reinterpret_cast<const unsigned char*>(active), chains, size,
                       reinterpret_cast<double*>(statistics)},
                      kernel, threads);
}

void normals(std::uint64_t seed, unsigned chain, std::uint64_t step, long size, std::uintptr_t out,
             const std::string& isa) {
  const auto& kernel = sgld_kernel_for(isa);
  pybind11::gil_scoped_release release;
  kernel.normals({seed, step, chain}, 0, size, reinterpret_cast<float*>(out));
}

std::array<unsigned, 4> philox(const std::array<unsigned, 4>& counter,
                               const std::array<unsigned, 2>& key, const std::string& isa) {
  std::array<unsigned, 4> out;
  sgld_kernel_for(isa).philox(counter.data(), key.data(), out.data());
  return out;
}

void spectra_on_host(std::uintptr_t gram, long batch, int n, int threads, int groups, int order,
                     bool packed, double eps, std::uintptr_t values, std::uintptr_t rankme) {
  if (batch < 0 || n < 1) throw std::invalid_argument("empty matrix");
  const bool warps = threads >= 32 && threads <= 1024 && threads % 32 == 0;
  if (!warps || groups < 1 || order < 0 || order > 2) {
    throw std::invalid_argument("threads must be whole warps to 1024, groups from 1, order 0 to 2");
  }
  pybind11::gil_scoped_release release;
  geomfast::spectra_on_host({reinterpret_cast<const double*>(gram), batch, n, threads, groups,
                             order, packed, eps, reinterpret_cast<double*>(values),
                             reinterpret_cast<double*>(rankme)});
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
  module.doc() = "Native CPU kernels of geomfast; called by geomfast.kernels only.";
  module.def("isa", [](const std::string& isa) { return std::string(kernel_for(isa).name); },
             pybind11::arg("isa") = "",
             "Name of the instruction set in use: avx512, avx2 or portable.");
  module.def("isas", [] {
    std::vector<std::string> names;
    for (const char* isa : {"avx512", "avx2", "portable"}) {
      if (geomfast::spectra_kernel(isa) != nullptr) names.emplace_back(isa);
    }
    return names;
  }, "Instruction sets that run on this processor, best first.");
  module.def("singular_values", &singular_values, pybind11::arg("data"), pybind11::arg("dtype"),
             pybind11::arg("batch"), pybind11::arg("rows"), pybind11::arg("cols"),
             pybind11::arg("batch_stride"), pybind11::arg("row_stride"), pybind11::arg("out"),
             pybind11::arg("threads"), pybind11::arg("isa") = "",
             "Descending singular values of (batch, rows, cols) with contiguous rows, float32 (0)\n"
             "or float64 (1), into float64 (batch, min(rows, cols)). Returns the index of the\n"
             "first matrix that failed, or -1, and why: 1 not finite, 2 not converged.");
  module.def("gradient_gram", &gradient_gram, pybind11::arg("uses"), pybind11::arg("dtype"),
             pybind11::arg("samples"), pybind11::arg("rows"), pybind11::arg("columns"),
             pybind11::arg("way"), pybind11::arg("max_bytes"), pybind11::arg("out"),
             pybind11::arg("threads"), pybind11::arg("isa") = "",
             "Gram matrix, float64 (samples, samples), of per-sample gradients, the sum over uses\n"
             "of left^T right. A use is (left, indices, right, length); a factor is (address,\n"
             "sample stride, position stride) of contiguous rows, float32 (0) or float64 (1);\n"
             "indices are the address of int64 (samples, length) where left is one-hot, else 0.\n"
             "The way is ghost, materialised, or centred: materialised, less the mean gradient.");
  module.def("member_norm", &member_norm, pybind11::arg("x"), pybind11::arg("gain"),
             pybind11::arg("bias"), pybind11::arg("into"), pybind11::arg("statistics"),
             pybind11::arg("out"), pybind11::arg("gain_gradient"),
             pybind11::arg("bias_gradient"), pybind11::arg("members"), pybind11::arg("tokens"),
             pybind11::arg("size"), pybind11::arg("stride"), pybind11::arg("gradient_stride"),
             pybind11::arg("eps"), pybind11::arg("threads"), pybind11::arg("isa") = "",
             "LayerNorm of float32 (members, tokens, size); gain and bias are (members, size) of\n"
             "rows `stride` apart, their gradients of rows `gradient_stride` apart. Statistics, (members, tokens, 2), are written\n"
             "and out is the output. With a gain_gradient, which may be 0, they are read, and the\n"
             "gradient of x is added to out.");
  module.def("row_attention", &row_attention, pybind11::arg("qkv"), pybind11::arg("into"),
             pybind11::arg("offsets"), pybind11::arg("out"), pybind11::arg("members"),
             pybind11::arg("rows"), pybind11::arg("heads"), pybind11::arg("width"),
             pybind11::arg("threads"), pybind11::arg("isa") = "", pybind11::arg("slopes") = 0,
             "Causal attention inside each row of float32 (members, tokens, 3, heads, width);\n"
             "offsets are int64 (rows + 1), the first token of each row and then their number.\n"
             "Out is (members, tokens, heads, width), or with the gradient `into` of that, which\n"
             "may be 0, the gradient of qkv. Slopes are float32 (heads), what a score loses for each\n"
             "token from its key to its query, or 0.");
  module.def("sgld_step", &sgld_step, pybind11::arg("weights"), pybind11::arg("gradients"),
             pybind11::arg("center"), pybind11::arg("previous"),
             pybind11::arg("velocity"), pybind11::arg("active"), pybind11::arg("chains"),
             pybind11::arg("size"), pybind11::arg("first_chain"), pybind11::arg("seed"),
             pybind11::arg("step"), pybind11::arg("pull"), pybind11::arg("back"),
             pybind11::arg("spread"), pybind11::arg("keep"), pybind11::arg("statistics"), pybind11::arg("threads"),
             pybind11::arg("isa") = "",
             "One Langevin step of float32 (chains, size) weights, in place; center is (size).\n"
             "previous, velocity and active may be 0. Statistics are float64 (chains, 4).");
  module.def("normals", &normals, pybind11::arg("seed"), pybind11::arg("chain"),
             pybind11::arg("step"), pybind11::arg("size"), pybind11::arg("out"),
             pybind11::arg("isa") = "", "The noise of one chain's step, float32 (size).");
  module.def("philox", &philox, pybind11::arg("counter"), pybind11::arg("key"),
             pybind11::arg("isa") = "", "For tests: Philox4x32-10 of one counter.");
  module.def("spectra_on_host", &spectra_on_host, pybind11::arg("gram"), pybind11::arg("batch"),
             pybind11::arg("n"), pybind11::arg("threads"), pybind11::arg("groups"),
             pybind11::arg("order"), pybind11::arg("packed"), pybind11::arg("eps"),
             pybind11::arg("values"), pybind11::arg("rankme"),
             "For tests: the algorithm of the CUDA kernels, run by one CPU thread. The threads of\n"
             "a phase run forward (order 0), backward (1) or shuffled (2), on a packed triangle as\n"
             "in shared memory or a square matrix as in global memory.");
}
