/* What main.c needs of the network's runtime: one function that you write, or one of the files network_*.c. */
#ifndef NETWORK_H
#define NETWORK_H

/* Runs the network once: from `input` to `outputs`, in the order and the types of stdet_model.h. Returns 0 when it did. */
int network_run(const void *input, void *const outputs[]);

#endif
