/* What mesh_model can check of a model on a mesh. Each check is collective on the world, prints its line and returns an error
 * only where there is none to print. */
#ifndef TESTS_MESH_CHECKS_H
#define TESTS_MESH_CHECKS_H

#include "mesh_run.h"

/* One step over rows.jsonl against transformers: loss, every gradient, their norm, the first row's logits. */
int check_gradients(run *r);

/* The steps of loss_curve.json against transformers. */
int check_curve(run *r);

/* A batch without label tokens before rows.jsonl: nothing is learnt from it. */
int check_empty(run *r);

/* One step over rows of its own against one rank alone (every rank computes it): for models that transformers was not asked
 * about. Where the mesh has stages only, bit for bit. */
int check_alone(run *r);

/* Activation checkpointing changes no bit. */
int check_recompute(run *r);

#endif
