import { build } from '../scripts/build.mjs';

/** Builds `dist/` once, so that tests which start `bin/fairlead` never race to build it. */
export default async function setup(): Promise<void> {
  await build();
}
