/* How IQ3_XXS and IQ3_S find the scale of 32 values and the grid's entry for each four of them. */
#pragma once
#include "kernels.h"

#define IQ3_SUB 32
#define IQ3_GROUPS 8
/* At least as many as there are trials, in whole vectors. */
#define IQ3_TRIALS 32

/* How a type searches. The tables: src/kernels/wasm/iq3-tables.ts. */
typedef struct {
  const int32_t *points;
  const uint32_t *lists;
  /* What values, divided by the greatest of them, are multiplied by in each trial. */
  float tops[IQ3_TRIALS];
  int trials;
  /* What no value reaches counts as zeros. */
  float least;
  /* Whether at last only groups that had been rounded to no entry are searched anew, or all where there is such a one. */
  int keeps_entries;
} iq3_type;

/* 32 values without their signs, and their weights in a fit and in an error. */
typedef struct {
  float x[IQ3_SUB], weight[IQ3_SUB], root[IQ3_SUB];
} iq3_values;

/* A scale, below 0 if the signs of all values are to be changed, and the entries. */
typedef struct {
  float scale;
  uint16_t entries[IQ3_GROUPS];
} iq3_found;

void iq3_type_of(enum type to, iq3_type *t);
/* Searches unless the values count as zeros: then returns 0. */
int iq3_search(const iq3_type *t, const iq3_values *v, iq3_found *f);
