#include "sgld_kernel.inl"
