/*
 * The tables in which entries of grids are looked up. The host makes one when its type is first written, and puts its address
 * here (SEARCHES_AT in src/kernels/wasm/search-tables.ts).
 */
#pragma once
#include "kernels.h"

#define SEARCHES ((const uint32_t *)(2 * 65536 - 64))

/* The table for quantising to a type, one of those from IQ1_S on. */
static inline const uint8_t *search_table(enum type to) { return (const uint8_t *)SEARCHES[to - IQ1_S]; }
