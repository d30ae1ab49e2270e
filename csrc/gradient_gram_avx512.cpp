#include "gradient_gram_kernel.inl"
