// What the dispatcher and the per-instruction-set kernels of members' LayerNorm share.
#pragma once

namespace geomfast {

// LayerNorm of members' tokens, each member with its own gain and bias.
struct MemberNormJob {
  const float* x;      // (members, tokens, size)
  const float* gain;   // (members, size), rows `stride` apart
  const float* bias;   // the same; forward only
  const float* into;   // gradient of the output, as x; backward only
  float* statistics;   // (members, tokens, 2), mean and reciprocal deviation: written forward
  float* out;          // as x: the output; backward, what the gradient of x is added to
  float* gain_gradient;  // (members, size), rows `gradient_stride` apart; null: forward
  float* bias_gradient;  // the same
  long members, tokens, size, stride, gradient_stride;
  float eps;
};

struct MemberNormKernel {
  const char* name;
  // Tokens [first, last) of one member. Backward their part of the gradients of gain and bias is
  // written to part, (2, size), which is null forward.
  void (*tokens)(const MemberNormJob& job, long member, long first, long last, float* part);
};

extern const MemberNormKernel member_norm_avx512;
extern const MemberNormKernel member_norm_avx2;
extern const MemberNormKernel member_norm_portable;

// The kernel to use; isa is "" for the best one here. Null if unknown or not runnable here.
const MemberNormKernel* member_norm_kernel(const char* isa);

void member_norm(const MemberNormJob& job, const MemberNormKernel& kernel, int threads);

}  // namespace geomfast
