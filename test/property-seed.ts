import fc from 'fast-check';

// A failing property prints `{ seed: S, path: "P" … }`. This replays exactly that case:
//   FAIRLEAD_SEED=S FAIRLEAD_PATH=P npm test -- test/property/FILE.test.ts -t 'NAME'
const seed = process.env['FAIRLEAD_SEED'];
const path = process.env['FAIRLEAD_PATH'];
if (seed !== undefined) fc.configureGlobal({ seed: Number(seed), ...(path !== undefined && { path }), endOnFailure: true });
