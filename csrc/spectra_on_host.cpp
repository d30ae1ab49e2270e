// The GPU's algorithm run by the CPU, one thread of a team after the other: for tests.
#include "spectra_on_host.h"

#include <vector>

#include "spectra_team.h"

namespace geomfast {

void spectra_on_host(const HostSpectraJob& job) {
  const long n = job.n;
  HostTeam team{{}, job.threads, static_cast<Order>(job.order), {}};
  const double unwritten = __builtin_nan("");  // what is read before it is written shows
  for (long matrix = 0; matrix < job.batch; ++matrix) {
    const double* gram = job.gram + matrix * n * n;
    std::vector<double> a, d(n, unwritten), e2(n, unwritten), w(n, unwritten),
        partial(job.groups * n, unwritten);
    double alpha = unwritten;
    if (job.packed) {
      for (long i = 0; i < n; ++i) a.insert(a.end(), gram + i * n, gram + i * n + i + 1);
      tridiagonalise(team, Packed{a.data()}, job.n, job.groups, partial.data(), w.data(), &alpha,
                     d.data(), e2.data());
    } else {
      a.assign(gram, gram + n * n);
      tridiagonalise(team, Square{a.data(), n}, job.n, job.groups, partial.data(), w.data(),
                     &alpha, d.data(), e2.data());
    }
    singular_values(team, d.data(), e2.data(), job.n, job.eps, job.values + matrix * n,
                    job.rankme + matrix);
  }
}

}  // namespace geomfast
