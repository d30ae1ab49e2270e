// The GPU's algorithm run by the CPU, one thread of a team after the other: for tests.
#pragma once

namespace geomfast {

struct HostSpectraJob {
  const double* gram;  // (batch, n, n), row-major
  long batch;
  int n;
  int threads, groups;  // of each team
  int order;            // of the threads within a phase: 0 forward, 1 backward, 2 shuffled
  bool packed;          // the triangle packed as in shared memory, else square as in global memory
  double eps;
  double* values;       // (batch, n)
  double* rankme;       // (batch)
};

void spectra_on_host(const HostSpectraJob& job);

}  // namespace geomfast
