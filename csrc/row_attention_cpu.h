// What the dispatcher and the per-instruction-set kernels of attention over short rows share.
#pragma once

namespace geomfast {

// Causal attention of members whose tokens come in rows, each row by itself.
struct RowAttentionJob {
  const float* qkv;   // (members, tokens, 3, heads, width)
  const float* into;  // gradient of the output, (members, tokens, heads, width); null: forward
  float* out;         // the output, as into; backward the gradient of qkv
  const long long* offsets;  // (rows + 1): first token of each row, and the number of tokens
  long members, rows, longest, heads, width;
  const float* falls;  // (heads): what a score loses for each token from key to query; null: nothing
};

struct RowAttentionKernel {
  const char* name;
  // Floats of memory, aligned to 64 bytes, that one worker needs for a job.
  long (*scratch)(const RowAttentionJob& job);
  // All heads of one row of one member, forward or backward.
  void (*row)(const RowAttentionJob& job, long member, long row, float* scratch);
};

extern const RowAttentionKernel row_attention_avx512;
extern const RowAttentionKernel row_attention_avx2;
extern const RowAttentionKernel row_attention_portable;

// The kernel to use; isa is "" for the best one here. Null if unknown or not runnable here.
const RowAttentionKernel* row_attention_kernel(const char* isa);

void row_attention(const RowAttentionJob& job, const RowAttentionKernel& kernel, int threads);

}  // namespace geomfast
