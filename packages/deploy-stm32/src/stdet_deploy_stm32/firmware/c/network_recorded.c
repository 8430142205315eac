/* A network that always answers what the model answered to the test vector's picture: for trying everything around it. */
#include "network.h"
#include "stdet_model.h"

#include <stdio.h>

static int read_file(const char *name, void *data, size_t size)
{
    FILE *file = fopen(name, "rb");
    size_t count;
    if (!file) {
        return -1;
    }
    count = fread(data, 1, size, file);
    (void)fclose(file);
    return count == size ? 0 : -1;
}

int network_run(const void *input, void *const outputs[])
{
    (void)input;
    if (read_file("test_vector/output_0.bin", outputs[0], STDET_MODEL_OUTPUT_0_BYTES)) {
        return -1;
    }
#if STDET_MODEL_OUTPUTS > 1
    if (read_file("test_vector/output_1.bin", outputs[1], STDET_MODEL_OUTPUT_1_BYTES)) {
        return -1;
    }
#endif
    return 0;
}
