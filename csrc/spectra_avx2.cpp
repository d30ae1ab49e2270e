#include "spectra_kernel.inl"
