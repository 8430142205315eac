/* Decoding, selection by score, suppression of overlapping boxes within a class. */
#include "stdet.h"

#include <math.h>

/* Where a pass over the outputs starts: behind this candidate. */
typedef struct {
    stdet_candidate_t last;
    int started;
} cursor_t;

typedef struct {
    stdet_candidate_t *heap; /* the worst at the root */
    int32_t count;
    int overflowed; /* candidates were left out: they are worse than all in the heap */
    cursor_t cursor;
} gathering_t;

static float value_at(const void *data, const stdet_format_t *format, int32_t index)
{
    if (format->type == STDET_INT8) {
        return (float)(((const int8_t *)data)[index] - format->zero_point) * format->scale;
    }
    if (format->type == STDET_UINT8) {
        return (float)(((const uint8_t *)data)[index] - format->zero_point) * format->scale;
    }
    return ((const float *)data)[index];
}

static int is_worse(const stdet_candidate_t *one, const stdet_candidate_t *other)
{
    return one->score < other->score || (one->score == other->score && one->index > other->index);
}

static void swap(stdet_candidate_t *one, stdet_candidate_t *other)
{
    const stdet_candidate_t kept = *one;
    *one = *other;
    *other = kept;
}

static void sift_down(stdet_candidate_t *heap, int32_t count)
{
    int32_t at = 0;
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= count) {
            return;
        }
        if (child + 1 < count && is_worse(&heap[child + 1], &heap[child])) {
            child++;
        }
        if (!is_worse(&heap[child], &heap[at])) {
            return;
        }
        swap(&heap[child], &heap[at]);
        at = child;
    }
}

static void offer(gathering_t *found, float score, int32_t index)
{
    stdet_candidate_t candidate;
    int32_t at;
    candidate.score = score;
    candidate.index = index;
    if (found->cursor.started && !is_worse(&candidate, &found->cursor.last)) {
        return; /* an earlier pass had it */
    }
    if (found->count == STDET_CANDIDATES) {
        found->overflowed = 1;
        if (is_worse(&found->heap[0], &candidate)) {
            found->heap[0] = candidate;
            sift_down(found->heap, found->count);
        }
        return;
    }
    at = found->count++;
    found->heap[at] = candidate;
    while (at > 0 && is_worse(&found->heap[at], &found->heap[(at - 1) / 2])) {
        swap(&found->heap[at], &found->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
}

/* Best first; the heap is none afterwards. */
static void sort(stdet_candidate_t *heap, int32_t count)
{
    while (count > 1) {
        count--;
        swap(&heap[0], &heap[count]);
        sift_down(heap, count);
    }
}

static void box_of(const stdet_model_t *model, const void *data, int32_t row, stdet_detection_t *box)
{
    const stdet_format_t *format = &model->boxes_format;
    float x, y, half_width, half_height;
    if (model->coding == STDET_SSD) {
        const float *prior = &model->priors[4 * row];
        const int32_t at = 4 * row;
        x = value_at(data, format, at) * model->center_variance * prior[2] + prior[0];
        y = value_at(data, format, at + 1) * model->center_variance * prior[3] + prior[1];
        half_width = expf(value_at(data, format, at + 2) * model->size_variance) * prior[2] / 2.0f;
        half_height = expf(value_at(data, format, at + 3) * model->size_variance) * prior[3] / 2.0f;
    } else {
        const int32_t at = (5 + model->classes) * row;
        int32_t level = 0, columns, cells;
        float stride;
        for (;;) {
            columns = model->width / model->strides[level];
            cells = columns * (model->height / model->strides[level]);
            if (row < cells || level + 1 == model->levels) {
                break;
            }
            row -= cells;
            level++;
        }
        stride = (float)model->strides[level];
        x = (value_at(data, format, at) + (float)(row % columns)) * stride;
        y = (value_at(data, format, at + 1) + (float)(row / columns)) * stride;
        half_width = expf(value_at(data, format, at + 2)) * stride / 2.0f;
        half_height = expf(value_at(data, format, at + 3)) * stride / 2.0f;
    }
    box->x1 = x - half_width;
    box->y1 = y - half_height;
    box->x2 = x + half_width;
    box->y2 = y + half_height;
}

/* One class a box: the best, the first of equals. A row with a score that is no number has none. */
static void gather_yolox(const stdet_model_t *model, const void *data, gathering_t *found)
{
    const stdet_format_t *format = &model->scores_format;
    int32_t row, label;
    for (row = 0; row < model->rows; row++) {
        const int32_t at = row * (5 + model->classes) + 4;
        const float objectness = value_at(data, format, at);
        float best = -INFINITY;
        int32_t best_label = 0;
        for (label = 0; label < model->classes; label++) {
            const float score = objectness * value_at(data, format, at + 1 + label);
            if (score > best || score != score) {
                best = score;
                best_label = label;
            }
            if (score != score) {
                break;
            }
        }
        if (best >= model->confidence) {
            offer(found, best, row * model->classes + best_label);
        }
    }
}

/* Softmax over background and classes; a box may be several detections. */
static void gather_ssd(const stdet_model_t *model, const void *data, gathering_t *found)
{
    const stdet_format_t *format = &model->scores_format;
    /* A class whose logit is so far below the greatest has a smaller share than `confidence`, whatever the sum. */
    const float reach = model->confidence > 0.0f ? logf(model->confidence) - 0.001f : -INFINITY;
    int32_t row, label;
    for (row = 0; row < model->rows; row++) {
        const int32_t at = row * (1 + model->classes);
        float greatest = value_at(data, format, at), sum = 0.0f;
        int in_reach = 0;
        for (label = 0; label < model->classes; label++) {
            const float logit = value_at(data, format, at + 1 + label);
            greatest = logit > greatest || greatest != greatest ? logit : greatest;
        }
        for (label = 0; label < model->classes; label++) {
            in_reach |= !(value_at(data, format, at + 1 + label) - greatest < reach);
        }
        if (!in_reach) {
            continue;
        }
        for (label = 0; label <= model->classes; label++) {
            sum += expf(value_at(data, format, at + label) - greatest);
        }
        for (label = 0; label < model->classes; label++) {
            const float score = expf(value_at(data, format, at + 1 + label) - greatest) / sum;
            if (score >= model->confidence) {
                offer(found, score, row * model->classes + label);
            }
        }
    }
}

static float larger(float one, float other)
{
    return one > other ? one : other;
}

static float smaller(float one, float other)
{
    return one < other ? one : other;
}

static int overlaps(const stdet_detection_t *one, const stdet_detection_t *other, float iou)
{
    const float width = smaller(one->x2, other->x2) - larger(one->x1, other->x1);
    const float height = smaller(one->y2, other->y2) - larger(one->y1, other->y1);
    const float both = larger(width, 0.0f) * larger(height, 0.0f);
    const float area = (one->x2 - one->x1) * (one->y2 - one->y1);
    const float other_area = (other->x2 - other->x1) * (other->y2 - other->y1);
    return both / (area + other_area - both) > iou;
}

static int is_detection(const stdet_detection_t *box, const stdet_detection_t found[], int32_t count, float iou)
{
    int32_t i;
    if (!isfinite(box->x1) || !isfinite(box->y1) || !isfinite(box->x2) || !isfinite(box->y2)) {
        return 0; /* an exponential overflowed */
    }
    for (i = 0; i < count; i++) {
        if (found[i].label == box->label && overlaps(&found[i], box, iou)) {
            return 0;
        }
    }
    return 1;
}

int32_t stdet_postprocess(const stdet_model_t *model, const void *const outputs[], stdet_work_t *work,
                          stdet_detection_t found[])
{
    const void *boxes = outputs[model->boxes_output], *scores = outputs[model->scores_output];
    gathering_t gathering;
    int32_t count = 0, i;
    gathering.heap = work->candidates;
    gathering.cursor.started = 0;
    do {
        gathering.count = 0;
        gathering.overflowed = 0;
        if (model->coding == STDET_SSD) {
            gather_ssd(model, scores, &gathering);
        } else {
            gather_yolox(model, scores, &gathering);
        }
        sort(gathering.heap, gathering.count);
        for (i = 0; i < gathering.count && count < model->max_detections; i++) {
            const stdet_candidate_t *candidate = &gathering.heap[i];
            stdet_detection_t box;
            box_of(model, boxes, candidate->index / model->classes, &box);
            box.score = candidate->score;
            box.label = candidate->index % model->classes;
            if (is_detection(&box, found, count, model->iou)) {
                found[count++] = box;
            }
        }
        if (gathering.overflowed) {
            gathering.cursor.last = gathering.heap[gathering.count - 1];
            gathering.cursor.started = 1;
        }
    } while (gathering.overflowed && count < model->max_detections);
    return count;
}
