// Numbers and times as people read them; the same rules as the terminal's.

/** Three significant digits with k, M or G. */
export function si(value) {
  const [unit, suffix] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([unit]) => Math.abs(value) >= unit) ?? [1, ""];
  const scaled = value / unit;
  return scaled.toFixed(Math.abs(scaled) < 100 && suffix ? 1 : 0) + suffix;
}

/** `42s`, `3m12s`, `2h05m`, `3d04h`. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
  return `${Math.floor(s / 86400)}d${two(Math.floor((s % 86400) / 3600))}h`;
}

/** A share as `63.0 %`. */
export function percent(share) {
  return `${(share * 100).toFixed(1)} %`;
}

/** Three decimals, scientific where that would show nothing. */
export function number(value) {
  const size = Math.abs(value);
  return (size !== 0 && size < 0.01) || size >= 1e6 ? value.toExponential(2) : value.toFixed(3);
}

/** A whole number in groups of three. */
export function whole(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** Bytes as `1.2 GB`. */
export function bytes(value) {
  return value >= 1e9 ? `${(value / 1e9).toFixed(1)} GB` : `${Math.round(value / 1e6)} MB`;
}

/** `value` formatted, or a dash where nothing was measured. */
export function or(value, format) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : format(value);
}
