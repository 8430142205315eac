/* Feeds the inputs of inputs.bin to a network, one after the other, and keeps what it answers: outputs.bin, and with
 * STDET_BOXES what the post-processing finds: boxes.bin. counts.bin has two numbers an input: ticks of network and
 * post-processing. */
#include "network.h"
#include "sizes.h"

#include <stdint.h>
#include <stdio.h>

#ifdef STDET_BOXES
#include "stdet_model.h"
static stdet_work_t work;
static stdet_detection_t found[STDET_MODEL_MAX_DETECTIONS];
#endif

#ifdef __arm__
#define SYST ((volatile uint32_t *)0xE000E010u)
extern volatile uint32_t stdet_wraps;

static void start_clock(void)
{
    SYST[1] = 0xFFFFFFu;
    SYST[2] = 0;
    SYST[0] = 7; /* processor clock, interrupt, on */
    while (SYST[2] == 0) {
    }
}

static uint64_t ticks(void)
{
    uint32_t before, left;
    do {
        before = stdet_wraps;
        left = SYST[2];
    } while (before != stdet_wraps);
    return ((uint64_t)before << 24) + (0xFFFFFFu - left);
}
#else
static void start_clock(void)
{
}

static uint64_t ticks(void)
{
    return 0;
}
#endif

static uint64_t input[(INPUT_BYTES + 7) / 8];
static uint64_t output_0[(OUTPUT_0_BYTES + 7) / 8];
#if OUTPUTS > 1
static uint64_t output_1[(OUTPUT_1_BYTES + 7) / 8];
#endif

int main(void)
{
    FILE *inputs = fopen("inputs.bin", "rb"), *answers = fopen("outputs.bin", "wb"), *counts = fopen("counts.bin", "wb");
#ifdef STDET_BOXES
    FILE *boxes = fopen("boxes.bin", "wb");
#endif
    static const size_t sizes[OUTPUTS] = {
        OUTPUT_0_BYTES,
#if OUTPUTS > 1
        OUTPUT_1_BYTES,
#endif
    };
    void *outputs[OUTPUTS] = {
        output_0,
#if OUTPUTS > 1
        output_1,
#endif
    };
    if (!inputs || !answers || !counts) {
        return 2;
    }
    start_clock();
    while (fread(input, INPUT_BYTES, 1, inputs) == 1) {
        uint64_t spent[2] = {0, 0};
        uint64_t before = ticks();
        int i;
        if (network_run(input, outputs)) {
            return 3;
        }
        spent[0] = ticks() - before;
        for (i = 0; i < OUTPUTS; i++) {
            (void)fwrite(outputs[i], sizes[i], 1, answers);
        }
#ifdef STDET_BOXES
        {
            const void *readable[OUTPUTS];
            int32_t count;
            for (i = 0; i < OUTPUTS; i++) {
                readable[i] = outputs[i];
            }
            before = ticks();
            count = stdet_postprocess(&stdet_model, readable, &work, found);
            spent[1] = ticks() - before;
            (void)fwrite(&count, sizeof count, 1, boxes);
            (void)fwrite(found, sizeof found[0], (size_t)count, boxes);
        }
#endif
        (void)fwrite(spent, sizeof spent, 1, counts);
    }
#ifdef STDET_BOXES
    (void)fclose(boxes);
#endif
    return fclose(answers) || fclose(counts) || fclose(inputs);
}
