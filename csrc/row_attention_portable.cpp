#include "row_attention_kernel.inl"
