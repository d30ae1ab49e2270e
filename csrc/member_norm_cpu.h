// What the dispatcher and the per-instruction-set kernels of members' LayerNorm share.
#pragma once

namespace geomfast {

// LayerNorm of members' tokens, each member with its own gain and bias.
struct MemberNormJob {
  const float* x;     // (members, tokens, size)
  const float* gain;  // (members, size), rows `stride` apart, as those of bias and the gradients
  const float* bias;
  const float* into;  // gradient of the output, as x; backward only
  float* statistics;  // (members, tokens, 2), mean and reciprocal deviation: written forward
  float* out;         // as x: the output; backward, what the gradient of x is added to
  float* gain_gradient;  // null: forward
  float* bias_gradient;
  float* part;  // (members, 2, size) to work in, backward
  long members, tokens, size, stride;
  float eps;
};

struct MemberNormKernel {
  const char* name;
  // All tokens of one member, forward or backward.
  void (*member)(const MemberNormJob& job, long member);
};

extern const MemberNormKernel member_norm_avx512;
extern const MemberNormKernel member_norm_avx2;
extern const MemberNormKernel member_norm_portable;

// The kernel to use; isa is "" for the best one here. Null if unknown or not runnable here.
const MemberNormKernel* member_norm_kernel(const char* isa);

// Its `part` is seen to here.
void member_norm(MemberNormJob job, const MemberNormKernel& kernel, int threads);

}  // namespace geomfast
