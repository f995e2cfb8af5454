/* A fake NVML: two GPUs (FAKE_NVML_GPUS), so that telemetry is tested through the real bindings.
 *
 * GPU 0: 300 W, everything supported.  GPU 1: 200 W, no temperature, no tensor metric.
 * FAKE_NVML_LOST_AFTER=N: GPU 1 falls off the bus after N utilisation readings.
 * FAKE_NVML_VANISH_AFTER=N: after N utilisation readings of GPU 0 every call fails with an unknown error.
 * FAKE_NVML_MIG=1: GPU 0 is in MIG mode with one slice.
 * FAKE_NVML_OTHERS=N: N unknown processes compute on each GPU.
 * FAKE_NVML_PIDS=FILE: the processes whose ids are in FILE compute on each GPU too.
 * FAKE_NVML_PROCESSES_HANG=1: the call for these processes never returns.
 * FAKE_NVML_INIT=CODE: NVML cannot be opened, with this error.  FAKE_NVML_BAD_HANDLE=CODE: GPU 0 cannot.
 * FAKE_NVML_UNIFIED=1: GPUs share the host's memory and report no value for it.
 * FAKE_NVML_BUSY=PERCENT: how busy they are, instead of 40 and 60 in turn; -1: not reported.
 * Compiled with -DOLD_DRIVER it is a driver of 2020: old names, no GPM, no energy counter, no power fields. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15, UNKNOWN = 999 };
#define GIB (1ULL << 30)

typedef struct { int index; int slice; int utilization_calls; } Device;
static Device gpus[16];
static Device slice = {0, 1, 0};
static double started_s;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int gpu_count(void) { return number("FAKE_NVML_GPUS", 2); }

/* The check at the start of every call on a device. */
static int alive(const Device *d) {
    int lost = number("FAKE_NVML_LOST_AFTER", -1), vanish = number("FAKE_NVML_VANISH_AFTER", -1);
    if (vanish >= 0 && gpus[0].utilization_calls >= vanish) return UNKNOWN;
    if (d->index == 1 && lost >= 0 && d->utilization_calls >= lost) return GPU_IS_LOST;
    return SUCCESS;
}
#define CHECK(d) do { int state_ = alive(d); if (state_) return state_; } while (0)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (number("FAKE_NVML_INIT", 0)) return number("FAKE_NVML_INIT", 0);
    started_s = now_s();
    for (int i = 0; i < 16; i++) gpus[i].index = i;
    return SUCCESS;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "fake error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned n) { strncpy(text, "575.57.08", n); return SUCCESS; }
int nvmlSystemGetNVMLVersion(char *text, unsigned n) { strncpy(text, "12.575.57", n); return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12090; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = gpu_count(); return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, Device **d) {
    if ((int)i >= gpu_count()) return INVALID_ARGUMENT;
    if (i == 0 && number("FAKE_NVML_BAD_HANDLE", 0)) return number("FAKE_NVML_BAD_HANDLE", 0);
    *d = &gpus[i];
    return SUCCESS;
}
int nvmlDeviceGetUUID(Device *d, char *text, unsigned n) {
    strncpy(text, d->slice ? "MIG-00000000-0000-0000-0000-0000000000aa" : "GPU-00000000-0000-0000-0000-00000000000X", n);
    if (!d->slice) text[39] = (char)('0' + d->index);
    return SUCCESS;
}
int nvmlDeviceGetName(Device *d, char *text, unsigned n) {
    strncpy(text, d->slice ? "NVIDIA H200 MIG 1g.18gb" : "NVIDIA H200", n);
    return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(Device *d, int *major, int *minor) { (void)d; *major = 9; *minor = 0; return SUCCESS; }
int nvmlDeviceGetMemoryBusWidth(Device *d, unsigned *bits) { (void)d; *bits = 6144; return SUCCESS; }
int nvmlDeviceGetEnforcedPowerLimit(Device *d, unsigned *mw) { (void)d; *mw = 700000; return SUCCESS; }
int nvmlDeviceGetMaxClockInfo(Device *d, int type, unsigned *mhz) { (void)d; (void)type; *mhz = 1980; return SUCCESS; }
int nvmlDeviceGetMaxPcieLinkGeneration(Device *d, unsigned *g) { (void)d; *g = 5; return SUCCESS; }
int nvmlDeviceGetMaxPcieLinkWidth(Device *d, unsigned *w) { (void)d; *w = 16; return SUCCESS; }
int nvmlDeviceGetMigMode(Device *d, unsigned *current, unsigned *pending) {
    if (d->index || d->slice) return NOT_SUPPORTED;
    *current = *pending = number("FAKE_NVML_MIG", 0);
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *n) { (void)d; *n = 7; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned i, Device **out) {
    (void)d;
    if (i) return NOT_FOUND;
    *out = &slice;
    return SUCCESS;
}
int nvmlDeviceGetGpuInstanceId(Device *d, unsigned *id) { (void)d; *id = 3; return SUCCESS; }

typedef struct { unsigned gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(Device *d, Utilization *u) {
    CHECK(d);
    int busy = number("FAKE_NVML_BUSY", d->utilization_calls++ % 2 ? 40 : 60);
    if (d->slice || busy < 0) return NOT_SUPPORTED;
    u->gpu = busy;
    u->memory = 5;
    return SUCCESS;
}

typedef struct { unsigned long long total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(Device *d, Memory *m) {
    CHECK(d);
    if (number("FAKE_NVML_UNIFIED", 0)) return NOT_SUPPORTED;
    m->total = 140 * GIB;
    m->used = (11 + d->index) * GIB; /* the older call counts 1 GiB of the driver's own */
    m->free = m->total - m->used;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Device *d, int sensor, unsigned *celsius) {
    CHECK(d);
    if (sensor || d->index == 1 || d->slice) return NOT_SUPPORTED;
    *celsius = 55;
    return SUCCESS;
}
int nvmlDeviceGetClockInfo(Device *d, int type, unsigned *mhz) {
    CHECK(d);
    *mhz = type == 1 ? 1755 : 3201;
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(Device *d, unsigned *mw) {
    CHECK(d);
    if (d->slice) return NOT_SUPPORTED;
    *mw = d->index ? 200000 : 300000;
    return SUCCESS;
}
int nvmlDeviceGetPcieThroughput(Device *d, int counter, unsigned *kib_per_s) {
    CHECK(d);
    *kib_per_s = counter ? 2048 : 1024;
    return SUCCESS;
}
static int event_reasons(Device *d, unsigned long long *bits) {
    CHECK(d);
    *bits = d->index ? 0 : 0x4;
    return SUCCESS;
}

typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } Process;
#ifdef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v2(Device *d, unsigned *n, Process *processes) {
#else
int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned *n, Process *processes) {
#endif
    CHECK(d);
    while (number("FAKE_NVML_PROCESSES_HANG", 0)) sleep(60);
    unsigned pids[64], found = 0, others = number("FAKE_NVML_OTHERS", 0);
    const char *path = getenv("FAKE_NVML_PIDS");
    FILE *file = path ? fopen(path, "r") : NULL;
    while (file && found < 32 && fscanf(file, "%u", &pids[found]) == 1) found++;
    if (file) fclose(file);
    for (unsigned i = 0; i < others && found < 64; i++) pids[found++] = (1u << 22) + i; /* Linux gives no such numbers */
    unsigned capacity = *n;
    *n = found;
    if (capacity < found) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < found; i++) processes[i] = (Process){pids[i], GIB, 0, 0};
    return SUCCESS;
}

#ifdef OLD_DRIVER
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *d, unsigned long long *bits) { return event_reasons(d, bits); }
#else
int nvmlDeviceGetCurrentClocksEventReasons(Device *d, unsigned long long *bits) { return event_reasons(d, bits); }

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo_v2(Device *d, Memory2 *m) {
    CHECK(d);
    if (m->version != 0x02000028) return INVALID_ARGUMENT;
    if (number("FAKE_NVML_UNIFIED", 0)) return NOT_SUPPORTED;
    m->total = 140 * GIB;
    m->reserved = GIB;
    m->used = (10 + d->index) * GIB;
    m->free = m->total - m->used - m->reserved;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Device *d, unsigned long long *mj) {
    CHECK(d);
    if (d->slice) return NOT_SUPPORTED;
    *mj = (unsigned long long)(1e9 + (now_s() - started_s) * (d->index ? 200e3 : 300e3));
    return SUCCESS;
}

typedef struct {
    unsigned field, scope;
    int64_t timestamp, latency_us;
    unsigned type, result;
    union { double d; unsigned u; unsigned long long ull; } value;
} FieldValue;
int nvmlDeviceGetFieldValues(Device *d, int n, FieldValue *fields) {
    CHECK(d);
    for (int i = 0; i < n; i++) {
        int known = (fields[i].field == 185 || fields[i].field == 186) && !d->slice;
        fields[i].result = known ? SUCCESS : NOT_SUPPORTED;
        fields[i].type = 1;
        fields[i].value.u = (d->index ? 200000 : 300000) + (fields[i].field == 186 ? 50000 : 0);
    }
    return SUCCESS;
}

typedef struct { int index; double time_s; } GpmSample;
typedef struct { unsigned id; unsigned result; double value; const char *names[3]; } GpmMetric;
typedef struct { unsigned version, n; GpmSample *before, *after; GpmMetric metrics[64]; } GpmQuery;
typedef struct { unsigned version, supported; } GpmSupport;
int nvmlGpmQueryDeviceSupport(Device *d, GpmSupport *s) { CHECK(d); s->supported = 1; return SUCCESS; }
int nvmlGpmSampleAlloc(GpmSample **sample) { *sample = calloc(1, sizeof(GpmSample)); return SUCCESS; }
int nvmlGpmSampleFree(GpmSample *sample) { free(sample); return SUCCESS; }
int nvmlGpmSampleGet(Device *d, GpmSample *sample) {
    CHECK(d);
    sample->index = d->index;
    sample->time_s = now_s();
    return SUCCESS;
}
int nvmlGpmMigSampleGet(Device *d, unsigned instance, GpmSample *sample) {
    return instance == 3 ? nvmlGpmSampleGet(d, sample) : INVALID_ARGUMENT;
}
int nvmlGpmMetricsGet(GpmQuery *q) {
    if (q->version != 1 || q->after->time_s - q->before->time_s < 0.1) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < q->n; i++) {
        GpmMetric *m = &q->metrics[i];
        m->result = m->id == 5 && q->before->index == 1 ? NOT_SUPPORTED : SUCCESS;
        m->value = m->id == 2 ? 40 : m->id == 3 ? 25 : m->id == 5 ? 30 : m->id == 10 ? 55 : m->id == 20 ? 100 : 200;
    }
    return SUCCESS;
}
#endif
