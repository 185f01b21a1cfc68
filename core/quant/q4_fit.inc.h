/* q4_fit.inc.h - the scale and zero point of an asymmetric NF4 or FP4 block, by search (strategy.h has the rule).
 *
 * These code books are dense in the middle and coarse at the ends, so mapping the range onto [-1, 1] exactly is not what gives
 * the least error: values spread evenly want the ends clipped a little, lopsided ones another middle.  Frames are tried in units
 * of the plain one, u = (x - C) / H: value = level * s + t.  The two best of six starts are refined by least squares, three times,
 *   s = cov(level, u) / var(level), t = mean(u) - s * mean(level),
 * with the levels its codes choose.  A frame counts only if no value errs by more than the plain frame may (half the widest gap
 * times H), and replaces a better one only by a clear gain; so a block that the plain frame reproduces keeps it.
 * Sums run in 16 lanes, halved in a fixed order: the same bits from every instruction set. */
#define FIT_LANES 16
#define FIT_STARTS 6
#define FIT_REFINED 2
#define FIT_REFITS 3
#define FIT_MAX 1e37f /* nothing overflows below it */

/* Sums over one block under a frame; u from -1 to 1. */
struct fit {
	double d2, l, l2, u, lu;
	float worst;
};

struct fit_block {
	const struct ql_q4_job *j;
	const k_book *book;
	uint64_t at, len;
	struct frame plain;
	float widest;	/* half the widest gap between levels */
	const float *u; /* all of it, if it is one piece */
};

/* One lane's part of a value v with level l. */
struct fit_lanes {
	_Alignas(64) float d2[FIT_LANES], l[FIT_LANES], l2[FIT_LANES], u[FIT_LANES], lu[FIT_LANES], worst[FIT_LANES];
};

static inline __attribute__((always_inline)) void fit_lane(struct fit_lanes *a, size_t k, float l, float v, float s, float t)
{
	float y = l * s, d = v - (y + t), e = fabsf(d);

	a->d2[k] += d * d;
	a->l[k] += l;
	a->l2[k] += l * l;
	a->u[k] += v;
	a->lu[k] += l * v;
	a->worst[k] = e > a->worst[k] ? e : a->worst[k];
}

static void fit_piece(const struct fit_block *b, const float *u, size_t n, float s, float t, struct fit *f)
{
	_Alignas(64) float level[PIECE], lut[16];
	uint8_t codes[PIECE / 2];
	struct fit_lanes a;
	size_t i = 0;

	for (size_t k = 0; k < FIT_LANES; k++)
		a.d2[k] = a.l[k] = a.l2[k] = a.u[k] = a.lu[k] = a.worst[k] = 0.0f;
	memcpy(lut, b->j->code, sizeof lut);
	k_encode(b->book, u, n, t, 1.0f / s, codes);
	k_decode_f32(lut, codes, n, level, false);
	for (; i + FIT_LANES <= n; i += FIT_LANES)
		for (size_t k = 0; k < FIT_LANES; k++)
			fit_lane(&a, k, level[i + k], u[i + k], s, t);
	for (size_t k = 0; i + k < n; k++)
		fit_lane(&a, k, level[i + k], u[i + k], s, t);
	for (size_t half = FIT_LANES / 2; half != 0; half /= 2)
		for (size_t k = 0; k < half; k++) {
			a.d2[k] += a.d2[k + half];
			a.l[k] += a.l[k + half];
			a.l2[k] += a.l2[k + half];
			a.u[k] += a.u[k + half];
			a.lu[k] += a.lu[k + half];
			a.worst[k] = a.worst[k + half] > a.worst[k] ? a.worst[k + half] : a.worst[k];
		}
	f->d2 += (double)a.d2[0];
	f->l += (double)a.l[0];
	f->l2 += (double)a.l2[0];
	f->u += (double)a.u[0];
	f->lu += (double)a.lu[0];
	f->worst = a.worst[0] > f->worst ? a.worst[0] : f->worst;
}

/* u of n elements from `at`. */
static void fit_units(const struct fit_block *b, uint64_t at, size_t n, float *u)
{
	_Alignas(64) float buf[PIECE];
	const float *x = view(b->j->src, b->j->src_dtype, at, n, buf);

	for (size_t i = 0; i < n; i++)
		u[i] = (x[i] - b->plain.zero) * b->plain.recip;
}

static struct fit fit_of(const struct fit_block *b, float s, float t)
{
	_Alignas(64) float u[PIECE];
	struct fit f = {0};

	if (b->len <= PIECE) {
		fit_piece(b, b->u, (size_t)b->len, s, t, &f);
		return f;
	}
	for (uint64_t p = 0; p < b->len; p += PIECE) {
		size_t n = (size_t)(b->len - p < PIECE ? b->len - p : PIECE);

		fit_units(b, b->at + p, n, u);
		fit_piece(b, u, n, s, t, &f);
	}
	return f;
}

struct fit_best {
	double d2;
	float s, t;
};

static void fit_better(const struct fit_block *b, const struct fit *f, float s, float t, struct fit_best *best)
{
	if (f->d2 < 0.999 * best->d2 && (f->worst <= b->widest || best->d2 == (double)INFINITY)) /* the plain frame comes first */
		*best = (struct fit_best){f->d2, s, t};
}

/* The least-squares frame for the codes behind f; false where there is none of use. */
static bool fit_next(const struct fit *f, double n, float *s, float *t)
{
	double var = f->l2 - f->l * f->l / n;

	if (!(var > 1e-6 * n))
		return false;
	*s = (float)((f->lu - f->l * f->u / n) / var);
	*t = (float)((f->u - (double)*s * f->l) / n);
	return *s > 0.25f && *s < 4.0f;
}

/* Replaces *f, the plain frame of the block, where another gives less error. */
static void fit_frame(const struct ql_q4_job *j, const k_book *book, uint64_t at, uint64_t len, struct frame *f)
{
	static const float starts[FIT_STARTS][2] = {{1.0f, 0.0f}, {1.0f, 0.05f}, {1.0f, -0.05f}, {1.0f / 1.1f, 0.0f}, {1.0f / 1.1f, 0.05f}, {1.0f / 1.1f, -0.05f}};
	_Alignas(64) float u[PIECE];
	struct fit_block b = {j, book, at, len, *f, 0.0f, u};
	struct fit_best best = {INFINITY, 1.0f, 0.0f};
	struct fit tried[FIT_STARTS];
	double n = (double)len;
	float s, t, scale, zero, order[16];

	if (f->scale <= QL_SCALE_FLOOR || f->scale > FIT_MAX || fabsf(f->zero) > FIT_MAX)
		return;
	for (int k = 0; k < 16; k++)
		order[k] = j->code[j->book->map[k]];
	for (int k = 1; k < 16; k++)
		b.widest = (order[k] - order[k - 1]) * 0.5f > b.widest ? (order[k] - order[k - 1]) * 0.5f : b.widest;
	if (len <= PIECE)
		fit_units(&b, at, (size_t)len, u);
	for (int k = 0; k < FIT_STARTS; k++) {
		tried[k] = fit_of(&b, starts[k][0], starts[k][1]);
		if (k == 0 && tried[0].d2 <= 1e-9 * n)
			return;
		fit_better(&b, &tried[k], starts[k][0], starts[k][1], &best);
	}
	for (int turn = 0; turn < FIT_REFINED; turn++) {
		int pick = 0;
		struct fit g;

		for (int k = 1; k < FIT_STARTS; k++)
			pick = tried[k].d2 < tried[pick].d2 ? k : pick;
		g = tried[pick];
		tried[pick].d2 = INFINITY;
		for (int r = 0; r < FIT_REFITS && fit_next(&g, n, &s, &t); r++) {
			g = fit_of(&b, s, t);
			fit_better(&b, &g, s, t, &best);
		}
	}
	scale = best.s;
	zero = best.t;
	if (scale != 1.0f || zero != 0.0f) {
		f->zero = f->zero + zero * f->scale;
		f->scale = f->scale * scale;
		f->recip = 1.0f / (f->scale > QL_SCALE_FLOOR ? f->scale : QL_SCALE_FLOOR);
	}
}
