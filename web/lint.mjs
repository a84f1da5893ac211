/**
 * What the type checker cannot refuse: a float for money. Prices, quantities and amounts are strings
 * and BigInt (src/lib/decimal.ts); only src/lib/screen.ts makes numbers of them, for drawing.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const RULES = [
  [/\b(?:Number\s*[.(]|parseFloat\b|parseInt\b)/, "money is never a float: see src/lib/decimal.ts"],
  [/(?:[=(,?:&|]|\breturn)\s*\+[A-Za-z_$(]/, "a unary plus makes a float: see src/lib/decimal.ts"],
  [/\brandomUUID\b/, "is only there over HTTPS: see src/lib/once.ts"],
  [/\bas any\b|:\s*any\b|<any>/, "any switches the type checker off"],
  [/\bdangerouslySetInnerHTML\b|\binnerHTML\b/, "text from outside never becomes markup"],
];
const ALLOWED = new Set([join("src", "lib", "screen.ts")]);

const sources = readdirSync("src", { recursive: true })
  .map((name) => join("src", name))
  .filter((path) => /\.tsx?$/.test(path) && !/\.test\.tsx?$/.test(path))
  .filter((path) => !path.startsWith(join("src", "gen")) && !ALLOWED.has(path));
let failures = 0;
for (const path of sources) {
  readFileSync(path, "utf8")
    .split("\n")
    .forEach((line, at) => {
      const code = line.replace(/^\s*(?:\*|\/\/|\/\*).*/, "");
      for (const [pattern, why] of RULES) {
        if (!pattern.test(code)) continue;
        failures += 1;
        console.error(`${path}:${at + 1}: ${why}\n    ${line.trim()}`);
      }
    });
}
process.exit(failures === 0 ? 0 : 1);
