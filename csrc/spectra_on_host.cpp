// The GPU's algorithm run by the CPU, one thread of a team after the other: for tests.
#include "spectra_on_host.h"

#include <vector>

#include "spectra_team.h"

namespace geomfast {

void spectra_on_host(const HostSpectraJob& job) {
  const long n = job.n;
  HostTeam team(job.threads, static_cast<Order>(job.order));
  const double unwritten = __builtin_nan("");  // what is read before it is written shows
  for (long matrix = 0; matrix < job.batch; ++matrix) {
    const double* gram = job.gram + matrix * n * n;
    std::vector<double> a, d(n, unwritten), e2(n, unwritten), partial(job.groups * n, unwritten);
    std::vector<Pair> pairs(n, {unwritten, unwritten});
    Step step{unwritten, unwritten, unwritten};
    const Shared shared{pairs.data(), partial.data(), &step};
    if (job.packed) {
      for (long i = 0; i < n; ++i) a.insert(a.end(), gram + i * n, gram + i * n + i + 1);
      tridiagonalise(team, Packed{a.data()}, job.n, job.groups, shared, d.data(), e2.data());
    } else {
      a.assign(gram, gram + n * n);
      tridiagonalise(team, Square{a.data(), job.n}, job.n, job.groups, shared, d.data(),
                     e2.data());
    }
    std::vector<SturmRow> rows(sturm_rows(job.n), {unwritten, unwritten});
    for (long i = 0; i < n; ++i) rows[i] = {d[i], e2[i]};
    singular_values(team, rows.data(), job.n, job.eps, job.values + matrix * n,
                    job.rankme + matrix);
  }
}

}  // namespace geomfast
