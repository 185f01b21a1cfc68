/* blk_search_ref.inc.h - the weighted searches behind the K types and IQ4_NL, in plain C: the reference.
 *
 * search_asym: 8 sub-blocks of 32; finds scale and min (stored as its negative) of codes 0..nmax that approximate x under
 *   weights w (ggml-quants.c make_qkx2_quants).  Sums run in index order in fp32; products associate to the left.
 * search_sym: 16 sub-blocks of 16; signed codes -32..31, stored + 32, under weights w (make_qx_quants).
 * search_iq4: groups blocks of 32; the scale of the IQ4_NL code book (quantize_iq4_nl). */

static float asym_try(const float *x, float iscale, float mn, float top, uint8_t *l, const float *w, float sums[3])
{
	float sl = 0.0f, sl2 = 0.0f, sxl = 0.0f;

	for (int i = 0; i < 32; i++) {
		float q = blk_near(iscale * (x[i] - mn), 0.0f, top), wq = w[i] * q;

		l[i] = (uint8_t)q;
		sl += wq;
		sl2 += wq * q;
		sxl += wq * x[i];
	}
	sums[0] = sl;
	sums[1] = sl2;
	sums[2] = sxl;
	return sl;
}

static float asym_error(const float *x, const float *w, const uint8_t *l, float scale, float mn)
{
	float error = 0.0f;

	for (int i = 0; i < 32; i++) {
		float diff = scale * (float)l[i] + mn - x[i];

		error += w[i] * (diff * diff);
	}
	return error;
}

static void asym_one(const float *x, const float *w, int nmax, float rmin, float rdelta, int nstep, uint8_t *L,
		     float *scale_out, float *min_out)
{
	float mn = x[0], mx = x[0], sw = w[0], sx = w[0] * x[0], scale, best, sums[3], top = (float)nmax;
	uint8_t aux[32];

	for (int i = 1; i < 32; i++) {
		mn = x[i] < mn ? x[i] : mn;
		mx = x[i] > mx ? x[i] : mx;
		sw += w[i];
		sx += w[i] * x[i];
	}
	mn = mn > 0.0f ? 0.0f : mn;
	if (mx == mn) {
		memset(L, 0, 32);
		*scale_out = 0.0f;
		*min_out = -mn;
		return;
	}
	scale = top / (mx - mn);
	(void)asym_try(x, scale, mn, top, L, w, sums);
	scale = 1.0f / scale;
	best = asym_error(x, w, L, scale, mn);
	for (int is = 0; is <= nstep; is++) {
		float iscale = (rmin + rdelta * (float)is + top) / (mx - mn), det, s, m, error;

		(void)asym_try(x, iscale, mn, top, aux, w, sums);
		det = sw * sums[1] - sums[0] * sums[0];
		if (!(det > 0.0f))
			continue;
		s = (sw * sums[2] - sx * sums[0]) / det;
		m = (sums[1] * sx - sums[0] * sums[2]) / det;
		if (m > 0.0f) {
			m = 0.0f;
			s = sums[2] / sums[1];
		}
		error = asym_error(x, w, aux, s, m);
		if (error < best) {
			memcpy(L, aux, 32);
			best = error;
			scale = s;
			mn = m;
		}
	}
	*scale_out = scale;
	*min_out = -mn;
}

static void search_asym(const float *x, const float *w, int nmax, float rmin, float rdelta, int nstep, uint8_t *L,
			float scale[8], float mins[8])
{
	for (int j = 0; j < 8; j++)
		asym_one(x + 32 * j, w + 32 * j, nmax, rmin, rdelta, nstep, L + 32 * j, &scale[j], &mins[j]);
}

static float sym_one(const float *x, const float *w, uint8_t *L)
{
	float v = 0.0f, amax = 0.0f, scale, best, slx = 0.0f, sl2 = 0.0f, iscale;

	for (int i = 0; i < 16; i++)
		if (fabsf(x[i]) > amax) {
			amax = fabsf(x[i]);
			v = x[i];
		}
	if (amax < BLK_EPS) {
		memset(L, 0, 16);
		return 0.0f;
	}
	iscale = -32.0f / v;
	for (int i = 0; i < 16; i++) {
		float q = blk_near(iscale * x[i], -32.0f, 31.0f);

		L[i] = (uint8_t)((int)q + 32);
		slx += w[i] * x[i] * q;
		sl2 += w[i] * q * q;
	}
	scale = sl2 != 0.0f ? slx / sl2 : 0.0f;
	best = scale * slx;
	for (int is = -9; is <= 9; is++) {
		if (is == 0)
			continue;
		iscale = -(32.0f + 0.1f * (float)is) / v;
		slx = 0.0f;
		sl2 = 0.0f;
		for (int i = 0; i < 16; i++) {
			float q = blk_near(iscale * x[i], -32.0f, 31.0f);

			slx += w[i] * x[i] * q;
			sl2 += w[i] * q * q;
		}
		if (sl2 > 0.0f && slx * slx > best * sl2) {
			for (int i = 0; i < 16; i++)
				L[i] = (uint8_t)((int)blk_near(iscale * x[i], -32.0f, 31.0f) + 32);
			scale = slx / sl2;
			best = scale * slx;
		}
	}
	return scale;
}

static void search_sym(const float *x, const float *w, uint8_t *L, float scale[16])
{
	for (int j = 0; j < 16; j++)
		scale[j] = sym_one(x + 16 * j, w + 16 * j, L + 16 * j);
}

static const float iq4_value[16] = BLK_IQ4_VALUES, iq4_mid[15] = BLK_IQ4_MIDS;

static int iq4_code(float v)
{
	int code = 0;

	for (int k = 0; k < 15; k++)
		code += v >= iq4_mid[k];
	return code;
}

static void iq4_sums(const float *x, float id, float *qx, float *q2)
{
	*qx = 0.0f;
	*q2 = 0.0f;
	for (int i = 0; i < 32; i++) {
		float q = iq4_value[iq4_code(id * x[i])], w = x[i] * x[i];

		*qx += w * q * x[i];
		*q2 += w * q * q;
	}
}

/* One block: its scale; the codes follow from 1/scale. */
static float iq4_one(const float *x)
{
	float v = 0.0f, amax = 0.0f, d, best, qx, q2;

	for (int i = 0; i < 32; i++)
		if (fabsf(x[i]) > amax) {
			amax = fabsf(x[i]);
			v = x[i];
		}
	if (amax < BLK_EPS)
		return 0.0f;
	iq4_sums(x, 1.0f / (-v / iq4_value[0]), &qx, &q2);
	d = qx / q2;
	best = d * qx;
	for (int k = -7; k <= 7; k++) {
		iq4_sums(x, ((float)k + iq4_value[0]) / v, &qx, &q2);
		if (q2 > 0.0f && qx * qx > best * q2) {
			d = qx / q2;
			best = d * qx;
		}
	}
	return d;
}

static void search_iq4(const float *x, size_t n_blocks, float *scale)
{
	for (size_t b = 0; b < n_blocks; b++)
		scale[b] = iq4_one(x + 32 * b);
}
