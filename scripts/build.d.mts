/** Bundles `src/` into `dist/`. */
export function build(): Promise<void>;
