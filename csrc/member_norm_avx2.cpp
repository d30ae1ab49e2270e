#include "member_norm_kernel.inl"
