"""The words that tell what a request asks for, in English, German, French and Spanish.

Small letters without accents, as `folded` makes them. `*` at the end of a word stands for any ending, a space for
words that follow each other. No list holds the name of a mode: to be routed, one has to ask for the work itself.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from msgspec import Struct

GROUPS: dict[str, tuple[str, str, str, str]] = {
    "greeting": (
        "hi, hello, hey, thanks, thank you, thx, good morning, good evening, good night, bye, lol,"
        " how are you, who are you, nice, cheers, ok, okay, sorry, great, what can you do, morning, yo, sup,"
        " sounds good, perfect, see you, brb, well done, how was your",
        "hallo, servus, moin, danke, guten morgen, guten tag, guten abend, tschuss, wie geht, wer bist du,"
        " gerne, gruss dich, passt, perfekt",
        "bonjour, bonsoir, salut, merci, au revoir, ca va, qui es tu, coucou, parfait, bonne nuit, a plus",
        "hola, gracias, buenos dias, buenas tardes, buenas noches, adios, que tal, quien eres, como estas,"
        " perfecto, genial, vale, hasta luego",
    ),
    "creative": (
        "poem*, poetry, story, stories, joke*, haiku, limerick, song, lyrics, slogan*, rhyme*, rap, tale,"
        " toast, speech, greeting card, birthday card, cover letter, blog post, linkedin, tweet, caption,"
        " pretend, imagine, role play, role playing, game master, name ideas, names for, a name for, essay,"
        " fairy tale, monologue, invitation, riddle*, pun, product description, describe the, describe,"
        " compose, caption*, apology, gift ideas, ideas, resignation letter, you are a, you re a, letter to,"
        " text to, message to, quiz me, wedding, retire*, eulogy, suggest a name, suggest three, invent,"
        " make up, novel, character, villain*, plot, scene, dialogue, screenplay, verse, nursery rhyme,"
        " tongue twister, pep talk, motivational, greeting, tagline, brand name, obituary, thank you note,"
        " love letter, bio, pickup line, playlist name",
        "gedicht*, geschichte, marchen, witz*, reim*, lied, liedtext, slogan, trinkspruch, geburtstagskarte,"
        " gluckwunsch*, anschreiben, bewerbungsschreiben, erzahl*, ratsel, rede, entschuldigung*, ideen,"
        " geschenkideen, nachricht an, kundigungsschreiben, beschreib*, karte fur, erfinde, dichte, roman,"
        " figur, szene, dialog, zungenbrecher, motto, liebesbrief, dankes*, steckbrief",
        "poeme*, poesie, histoire, conte, blague*, chanson, paroles, slogan, lettre de motivation,"
        " carte d anniversaire, raconte*, devinette*, discours, idee, idees, message pour, excuses, decris,"
        " ecris, invente, roman, personnage*, scene, dialogue, comptine*, declaration, mot doux, devise",
        "poema*, poesia, cuento*, historia, chiste*, cancion*, eslogan, carta de presentacion,"
        " tarjeta de cumpleanos, adivinanza*, nombres para, discurso, ideas, mensaje, escribe, escribeme,"
        " felicit*, disculpa*, describe, inventa, novela, personaje*, escena, dialogo, trabalenguas, lema,"
        " carta de amor",
    ),
    "rewriting": (
        "translat*, rewrite, rephras*, reword*, proofread*, paraphras*, shorten*, shorter, simplify,"
        " fix the grammar, grammar, spelling, correct the, correct this, more formal, more professional,"
        " more polite, friendlier, punctuation, summarise, summarize, summary of the following,"
        " sum up the following, the following text, turn this, turn these, convert this function, in french,"
        " in german, in spanish, in english, how do you say, tone, classify, sentiment, bullet points,"
        " out of this, outta this, gist, less angry, sounds less, reword, synonym*, refactor, clean up this,"
        " funnier, in your own words, better wording, polish, dumb this down, dumb down, in plain english,"
        " tone warmer, warmer, sound more, sound constructive, should sound, rename these, capitals,"
        " underline, fill in the blank, bullet list, key takeaways, make it sound, edit this, edit my,"
        " improve my, improve this, improve the wording, transcribe",
        "ubersetz*, umschreib*, formulier*, umformulier*, korrigier*, korrektur*, rechtschreib*, grammatik,"
        " kurzer, kurze den, kurze diesen, vereinfach*, freundlicher, hoflicher, formeller,"
        " fasse den folgenden, fasse diesen, folgenden text, auf englisch, ins englische, lustiger, synonym*,"
        " klingt, mach das, verbessere, schreib um, klinge, klingen, in einfachen worten, stichpunkte,"
        " kernaussagen",
        "tradui*, reformul*, corrige*, relis, orthographe, grammaire, raccourci*, plus court, plus courte,"
        " simplifi*, plus poli, plus formel, paraphras*, texte suivant, en anglais, en francais, resserre,"
        " synonyme*, plus drole, ameliore, plus clair, en termes simples, points cles",
        "traduc*, traduz*, reescrib*, reformul*, corrige*, corregir, ortografia, gramatica, mas corto,"
        " mas formal, acorta*, simplifica*, parafrase*, texto siguiente, siguiente texto, al ingles,"
        " en ingles, sinonimo*, mas divertido, mas breve, mejora, mas claro, en palabras sencillas,"
        " puntos clave, suene",
    ),
    "explaining": (
        "explain*, what is a, what is an, what is the difference, what s the difference, difference between,"
        " define, definition, what does, mean, meaning, why is, why are, why do, why does, how does, how do,"
        " how can, how do i, tell me about, tell me something, give me an example, tips, recipe, symptoms,"
        " what are the symptoms, steps to, who painted, capital of, when did, name three, name five,"
        " list the, idiom, how to, how come, what are some, good ways, why did, why was, what causes,"
        " cause of, plural of, tense, which war, what was, when was, where does, what happens, past tense,"
        " rules of, how to say, teach me, fun fact, which organ, what kind of, what type of,"
        " what happened in, history of, in theory, elaborate, go into detail, give an example, who invented,"
        " who discovered, what can i do, brief overview of, basics, beginner",
        "erklar*, was ist, was ist der unterschied, unterschied zwischen, was bedeutet, bedeutung,"
        " wie funktioniert, wie kocht, wie macht, warum ist, warum sind, wieso, weshalb, definier*,"
        " sprichwort, nenne, rezept, hauptstadt, tipps, wie schreibe, wie mache, warum, mehrzahl, wodurch,"
        " was kann man, welche zeitform, regeln von, bring mir bei, geschichte von, wer erfand,"
        " wer entdeckte, grundlagen, beispiel",
        "expliqu*, c est quoi, qu est ce que, difference entre, que veut dire, que signifie, definition,"
        " pourquoi, comment fait, comment faire, comment fonctionne, recette, quelle est la capitale,"
        " qui a ecrit, qui a peint, quels sont les symptomes, comment, quelle est la difference, regles du,"
        " apprends moi, histoire de, qui a invente, qui a decouvert, les bases, exemple",
        "explica*, que es, que significa, diferencia entre, definicion, por que, como se hace, como funciona,"
        " receta, cual es la capital, quien escribio, quien pinto, consejos, como, cual es la diferencia,"
        " conjuga, reglas del, ensename, historia de, quien invento, quien descubrio, que diferencia hay,"
        " fundamentos, ejemplo",
    ),
    "coding": (
        "python function, function, regex, regular expression, sql, query, javascript, typescript, java,"
        " html, css, git, bash, shell, docker, unit test, unit tests, bug, compile*, variable, api, class,"
        " component, code, algorithm, time complexity, json, one liner, commit, script, refactor, python,"
        " dockerfile, flask, django, rust, stack trace, exception, indentationerror, traceback, dict,"
        " endpoint, struct, loop, cpp, golang, chmod, terminal, command line, linux, css grid, npm install,"
        " kubectl, pointer, snake case, camel case, import error, null, lambda, decorator, async",
        "python funktion, funktion, regularer ausdruck, abfrage, skript, programmier*, quelltext,"
        " algorithmus, dockerfile, fehlermeldung, schleife, befehl, zeiger, terminal",
        "fonction, expression reguliere, requete, script, programme, algorithme, code source, erreur python,"
        " boucle, commande, pointeur",
        "funcion, expresion regular, consulta sql, programa, algoritmo, codigo, error de python, bucle,"
        " comando, puntero",
    ),
    "fresh": (
        "today, tonight, tomorrow, yesterday, now, right now, currently, current, latest, newest, recent,"
        " recently, this week, this month, this year, last week, last month, next week, at the moment,"
        " so far, news, headlines, weather, forecast, temperature in, rain, price of, prices, stock,"
        " stock price, share price, exchange rate, up to date, live, score, standings, still open,"
        " opening hours, open on, delays, next bus, next train, ticket, flights, flight, release date, yet,"
        " nearby, near me, available, what time is it, what day, days until, ceo of, president of, monday,"
        " tuesday, wednesday, thursday, friday, saturday, sunday, last night, weekend, won, win, leading,"
        " traffic, strike, trending, changed this, opening times, open positions, vacancies, vulnerability,"
        " how s the, cost, costs, timetable, departure, arrival, status of, who is the, who s the,"
        " this morning, this afternoon, this evening, on time, in the charts, charts, announced, announce,"
        " resigned, elected, election results, released, newer, update, updates, live score, inflation,"
        " unemployment, population of, sunrise, sunset, how far is, distance from, distance between, opening,"
        " open now, in stock, sold out, for sale, rent in, salary of, ranking, lineup, schedule for,"
        " happening, going on, people saying, reviews, review of, menu, lunch at, showing, on tv, streaming,"
        " changelog, roadmap, outage, is down, deadline for, since yesterday, in theaters, in theatres,"
        " who runs, still alive, married to, net worth, closed, tickets, gas price, mortgage rate,"
        " interest rate, interest rates",
        "heute, morgen, gestern, jetzt, gerade, aktuell*, derzeit*, neueste*, neuesten, momentan, zurzeit,"
        " diese woche, dieses jahr, letzte woche, nachste woche, nachrichten, neues, wetter, temperatur,"
        " kurs, aktienkurs, wechselkurs, preise, offnungszeiten, geoffnet, kostet, spielstand, wie spat,"
        " streik, stand beim, montag*, dienstag*, mittwoch, donnerstag*, freitag*, samstag*, sonntag*,"
        " letzte nacht, gewonnen, verspatung, nachste zug, nachster, nachste, stau, wie viel uhr, wann fahrt,"
        " fahrplan, stellenangebote, preis, was kostet, wie teuer, heute abend, heute nacht, heute fruh,"
        " inflation, arbeitslos*, einwohner*, sonnenaufgang, sonnenuntergang, zuruckgetreten, gewahlt,"
        " wahlergebnis*, veroffentlicht, angekundigt, punktlich, wie weit, entfernung, speisekarte,"
        " bewertungen, im kino, im fernsehen, ausverkauft, zinssatz, zinsen, wer ist, hochwasser, sperrung",
        "aujourd hui, demain, hier, maintenant, en ce moment, actuel*, actuellement, dernier*, derniere*,"
        " recent*, cette semaine, cette annee, nouvelles, actualite*, meteo, quel temps, cours de, prix de,"
        " taux de change, horaire*, ouvert*, greve, quelle heure, lundi, mardi, mercredi, jeudi, vendredi,"
        " samedi, dimanche, hier soir, gagne, embouteillage*, billet, prochain*, combien coute, prix,"
        " offres d emploi, quelle est la meteo, ce soir, ce matin, cet apres midi, inflation, chomage,"
        " population de, recensement, lever du soleil, coucher du soleil, demissionne, elu, annonce*, sorti,"
        " a l heure, distance entre, avis sur, au cinema, a la tele, complet, taux, qui est, panne",
        "hoy, manana, ayer, ahora, actualmente, ultima*, ultimas noticias, ultimo*, reciente*, esta semana,"
        " este ano, noticias, que tiempo, pronostico, precio de, cotizacion, tipo de cambio, a cuanto esta,"
        " horario*, abierto*, que hora, lunes, martes, miercoles, jueves, viernes, sabado, domingo, anoche,"
        " gano, trafico, billete*, proximo*, cuanto cuesta, precio, huelga, cuando sale, cuanto falta,"
        " esta noche, esta tarde, esta manana, inflacion, desempleo, poblacion de, censo, amanecer,"
        " atardecer, dimitido, elegido, anuncio, anunciado, publicado, a tiempo, distancia entre,"
        " opiniones sobre, en el cine, agotado, tasa, quien es, averia, salio",
    ),
    "lookup": (
        "search*, look up, look it up, google, find out, find the, find a, find three, find two, online,"
        " on the web, the web, internet, website, web page, this page, source*, cite, citation*, link, links,"
        " browse, check online, fact check, reviews of, research, opening hours, wikipedia, which version,"
        " phone number, phone numbers, email address, recent paper, recent studies, newer studies, download,"
        " visit, scrape, tldr, tl dr, open the page, are there any, check whether, eligibility, see online,"
        " look at the page, figure out, pypi, github, npm, docker hub, official site, homepage, isbn, doi,"
        " imdb, look on, look at, check on, check if, grab the, get the, get today, fetch, pull up, url, 404,"
        " website of, contact details, address of, manufacturer, specs, datasheet, tenders, listings",
        "suche, such, suchen, recherchier*, nachschlagen, schau nach, finde, finde heraus, herausfinden,"
        " im internet, im netz, online, webseite, quelle, quellen, belege, nachsehen, rausfinden, such mir,"
        " gibt es, nachgucken, ausschreibungen, adresse von, kontaktdaten, hol dir, ermittle, ruf die,"
        " offizielle seite, datenblatt",
        "cherche*, recherch*, trouve*, sur internet, en ligne, site web, cette page, source*,"
        " verifie en ligne, consulte*, est ce qu il y a, y a t il, reperer, recupere, site officiel,"
        " adresse de, coordonnees, fiche technique",
        "busca*, buscar, encuentra*, averigua*, en internet, en linea, pagina web, esta pagina, fuente,"
        " fuentes, consulta*, recopila*, hay algun, hay alguna, mira en, sitio oficial, direccion de,"
        " datos de contacto, ficha tecnica, reune",
    ),
    "computing": (
        "calculat*, compute*, how much is, sum, sum of, total, totals, add up, average*, mean of, the mean,"
        " median, standard deviation, variance, percent, percentage, square root, to the power, multipl*,"
        " divided, probability, solve, integrate, derivative, convert, growth rate, growth rates, loan,"
        " prime, primes, factorial, fibonacci, random, roll, how many days, how many rows, rounded, binary,"
        " hexadecimal, hash, base64, decode, encode, simulat*, run this code, execute, show the output,"
        " run the code, volatility, regression, sha256, monthly payment, compound, count, count the,"
        " how many calories, calories, bmi, cube root, eigenvalue*, how many times, how long would, exact,"
        " exactly, coin, in total, per square, sort these, order these, descending, ascending, word count,"
        " weeks between, equation, square footage, square metres, square meters, square feet, divided by,"
        " permutations, combinations, digits of, decimal places, as a decimal, add these, subtract,"
        " difference in days, how many seconds, how many minutes, how many hours, how many weeks, in cm,"
        " in inches, in miles, in fahrenheit, in celsius, area of, volume of, perimeter, circumference,"
        " character by character, line by line, matrix, determinant, logarithm, modulo, minus, calorie count,"
        " roi, break even, vat, discount, statistics of, sample size, p value, checksum, md5, uuid, dice",
        "berechn*, rechne*, ausrechnen, wie viel sind, wie viel ist, summe, summier*, gesamtkosten,"
        " mittelwert*, durchschnitt*, median, standardabweichung, prozent, wurzel, multiplizier*,"
        " geteilt durch, zinsen, wahrscheinlichkeit, wie viele tage, zufallszahl*, wachstum, fuhre aus,"
        " zahle, kubikwurzel, gleichung, wie oft, wie lange dauert, hoch, minus, geteilt, quadratwurzel,"
        " quadratmeter, flache, volumen, umfang, in zoll, wie viele sekunden, wie viele stunden, rabatt,"
        " mehrwertsteuer, stellen von, matrix, ableitung, integral",
        "calcul*, combien font, combien fait, somme, total*, moyenne*, mediane, ecart type, pour cent,"
        " pourcentage, racine carree, multipli*, divise, probabilite, interets, combien de jours,"
        " nombre aleatoire, cout total, racine cubique, compte, combien de fois, equation, divise par,"
        " au carre, puissance, metres carres, aire de, volume de, perimetre, combien de secondes,"
        " combien de minutes, remise, tva, moins, matrice, derivee, integrale",
        "calcul*, cuanto es, cuanto son, suma*, total*, promedio, mediana, desviacion, por ciento,"
        " porcentaje, raiz cuadrada, multiplica*, dividido, probabilidad, cuantos dias, aleatori*,"
        " coste total, cuenta, raiz cubica, cuantas veces, ecuacion, dividido por, dividido entre,"
        " al cuadrado, elevado, metros cuadrados, area de, volumen de, perimetro, cuantos segundos,"
        " cuantas horas, descuento, iva, menos, matriz, derivada, integral",
    ),
    "data": (
        "column*, row, rows, csv, spreadsheet*, excel, dataset*, data set, data, plot, chart*, graph,"
        " histogram, diagram, bar chart, visuali*, scatter*, correlation*, outlier*, group by, duplicates,"
        " merge, table of, revenue, analyse the, analyze the, analyse, analyze, log file, trend, trends,"
        " statistic*, survey, cluster*, extract*, count, sort, rows where, fill in, empty cells, pie chart,"
        " line chart, cross tabulat, significance, per product, margin, totals, normalise, normalize, export",
        "spalte*, zeile, zeilen, tabelle, excel, datensatz*, daten, diagramm*, grafik, histogramm, auswert*,"
        " werte die, korrelation, ausreisser, gruppier*, zusammenfuhr*, umsatz*, statistik*, zahlen,"
        " tortendiagramm, je abteilung, marge, folien",
        "colonne*, ligne du, tableau, tableur, jeu de donnees, donnees, graphique*, histogramme, correlation,"
        " groupe par, statistique*, chiffre d affaires, chiffres, extrais, ventes, analyse les, camembert,"
        " marge, par produit",
        "columna*, fila, filas, hoja de calculo, datos, grafico*, grafica*, histograma, correlacion, agrupa*,"
        " estadistica*, ventas, tabla, cifras, encuesta, por provincia, margen, grafico circular",
    ),
    "documents": (
        "file, files, document*, pdf, attached, attachment*, uploaded, upload, contract*, handbook, manual,"
        " invoice*, report, reports, slide*, my documents, our documents, knowledge base, our policy,"
        " privacy policy, policy, according to our, minutes, passage, syllabus, thesis, my notes, mailbox,"
        " in the text, author, guide, guideline*, our guide, notes from, meeting notes, say about, in it,"
        " ledger, quote, quotes, paper, spreadsheet, tl dr, the zip, company rule, our company, company s,"
        " our rules, in my notes, chapter, abstract, archive, manuscript, agreement, bank statement,"
        " in the attachment, appendix, clause, this spreadsheet, internal, wiki, our wiki, transcript, folder",
        "datei*, dokument*, anhang, angehangt*, hochgeladen*, vertrag*, vertrage*, handbuch, rechnung*,"
        " bericht*, folie*, unterlagen, wissensdatenbank, laut unserem, in unserem, protokoll, leitfaden,"
        " richtlinie*, notizen, steht in, steht zu, in meinen notizen, kapitel, archiv, ordner, anlage,"
        " klausel, betriebsvereinbarung, intern, kontoauszug*",
        "fichier*, document*, piece jointe, joint, contrat*, manuel, facture*, rapport*, diapositive*,"
        " base de connaissances, selon notre, guide, notes de, fichier joint, dans mes notes, chapitre,"
        " archive, dossier, annexe, clause, interne, releve*",
        "archivo*, fichero*, documento*, adjunto*, contrato*, manual, factura*, informe*, diapositiva*,"
        " base de conocimiento, base de conocimientos, segun nuestro, guia, apuntes, notas de, en mis notas,"
        " capitulo, carpeta, anexo, clausula, interno, extracto*",
    ),
    "acting": (
        "send, book a, book the, book, turn off, turn on, switch off, switch on, set the, open an issue,"
        " create an issue, create a ticket, add to my, my calendar, on my calendar, schedule a, remind me,"
        " order a, delete the, assigned to me, save it, save as, post it, export, sign up, invitation to,"
        " with the tool, check my, check with, call the",
        "sende, schick*, buche, buch mir, schalte, stell die, erstelle ein ticket, in meinen kalender,"
        " erinnere mich, speicher*, bestell*",
        "envoie*, reserve*, allume*, eteins, regle, ajoute a mon, rappelle moi, enregistre*, commande*, cree un ticket",
        "envia*, reserva*, enciende, apaga, pon la, anade a mi, recuerdame, guarda*, pide, crea un ticket",
    ),
    "chaining": (
        "then, and then, after that, afterwards, finally, first, next step, in the end, based on that,"
        " do the following, step by step, once you, when done, in addition, using that, all of it,"
        " go through, note the, for each of, for each chapter, work out, collect, categorise, categorize,"
        " join it, fix the, pick those, join with",
        "dann, danach, anschliessend, zuerst, erstens, zweitens, drittens, schliesslich, zuletzt, am ende,"
        " daraus, als nachstes, folgendes, geh alle, ermittle, rechne sie, notier*",
        "puis, ensuite, apres, apres cela, enfin, d abord, premierement, deuxiemement, pour finir,"
        " a partir de la, a la fin, recupere, compare avec",
        "luego, despues, despues de eso, primero, segundo, finalmente, por ultimo, al final, a continuacion,"
        " a partir de eso, reune, compara con, comparalo",
    ),
    "delivering": (
        "report, briefing, overview, presentation, outline, slides, itinerary, shopping list, schedule,"
        " checklist, timeline, literature review, executive summary, meal, trip, one page, two page, compile,"
        " produce, write up, write a summary, draft, budget, comparison table, in a table, make a table,"
        " feature matrix, save it as, write a report, speaker notes, summarise the trends, recommend one,"
        " recommend, propose, rank, list of, put everything, prepare a, gather, collect, investigate,"
        " determine, build me, create a, make a, half a page, poster, shortlist, deadlines, month by month,"
        " running total, press release, wiki page, newsletter, build, put it all, suggest, memo,"
        " give me a list, make me, audit, quiz, word document, benchmark, write tickets, deliver, market,"
        " leaderboard, dashboard, proposal, guidebook, catalogue, write an article, summary mail",
        "bericht, ubersicht, marktubersicht, prasentation, reiseplan, einkaufsliste, zeitleiste, checkliste,"
        " erstelle, erstell*, zusammenstell*, stelle, entwirf, empfiehl*, in einer tabelle, gegenuberstell*,"
        " wochenende, fasse das ergebnis, excel datei, zusammenfassung, folien, bau mir,"
        " formuliere eine anfrage, pressemitteilung, rausschreiben, notiere, entscheidungsvorlage,"
        " artikel dazu, katalog, angebot, konzept",
        "rapport, synthese, presentation, itineraire, liste de courses, calendrier, redige*, prepare*,"
        " dans un tableau, recommande*, organise*, programme pour, resume d une, apercu, week end,"
        " rassemble*, tableau recapitulatif, fais moi un tableau, propose*, communique, diapositives,"
        " article, dossier complet, proposition",
        "informe, resumen, presentacion, itinerario, lista de la compra, cronograma, redacta*, prepara*,"
        " en una tabla, recomienda*, organiza*, para cada dia, conclusiones, viaje de, elabora*,"
        " nota de prensa, ordenalos, haz un, propon, diapositivas, articulo, propuesta, hazme un informe",
    ),
    "several": (
        "each, every, for each, all three, all four, all the, both files, the three, the four, two, three,"
        " four, five, six, ten, top ten, per region, per category, per supplier, by region, by topic,"
        " by type, by month, by subject",
        "jeden, jede, jedes, pro lieferant, je gruppe, alle drei, beide, beiden, drei, vier, funf, zehn",
        "chaque, chacun*, pour chaque, les les trois, par region, par mois, deux, trois, quatre, cinq, dix",
        "cada, cada uno, los los tres, por grupo, por tema, por region, dos, tres, cuatro, cinco, diez",
    ),
    "comparing": (
        "compare*, comparison, versus, vs, cheaper, cheapest, best rated, which is best, which is cheaper,"
        " better than, rank them, contradict*, check whether, check against, mismatch, find those",
        "vergleich*, gegenuber, gunstiger, gunstigste*, besser als, prufe, widersprech*",
        "compare*, comparaison, moins cher, mieux note, mieux notes, contredisent, verifie*",
        "compara*, comparacion, mas barato, mejor valorado, mejor valorados, comprueba*, contradicen",
    ),
    "views": (
        "pros and cons, for and against, both sides, both positions, each side, either side,"
        " devil s advocate, steelman, points of view, point of view, viewpoint*, perspectives,"
        " from the perspective of, several angles, different angles, opposing, competing positions,"
        " schools of thought, views of, compare the views, make the case, case for, case against,"
        " several experts, experts discuss, arguments on, critics and supporters, every side, all sides,"
        " from all sides, proponent and an opponent, different opinions, opposing opinions, best case,"
        " both cases, two positions, the best arguments, strongest arguments, different critics,"
        " different camps",
        "fur und wider, pro und contra, pro und kontra, argumente fur, beide seiten, beide positionen,"
        " wage die, standpunkt*, sichtweise*, aus sicht von, aus der sicht, blickwinkel, perspektiven,"
        " was spricht fur, was spricht dafur, was spricht gegen, kontrovers*, von allen seiten,"
        " gegensatzliche, verschiedene meinungen, beide standpunkte, die besten argumente",
        "le pour et le contre, pour et contre, points de vue, point de vue, les deux cotes, arguments pour,"
        " avocat du diable, avis opposes, tous les angles, les deux positions, les meilleurs arguments",
        "pros y contras, pros y los contras, a favor y en contra, puntos de vista, punto de vista,"
        " ambas partes, argumentos a favor, todos los angulos, opiniones opuestas, distintas opiniones,"
        " las dos posturas, ambas posturas, los mejores argumentos",
    ),
    "weighing": (
        "trade off, trade offs, tradeoff*, on balance, weigh, weighing, perspective, counterarg*,"
        " arguments, argument, argue, objection*, critics, sceptic, skeptic, supporters, defenders, opinions,"
        " second opinion, disagree, disagreement, discuss, verdict, outweigh, advantages and disadvantages,"
        " critique, controversial*, divided, judge, risks and opportunities, attack*, proponent*, opponent*,"
        " claim, defend*, sparring partner, would each say, abolish, every side, all sides, debatable,"
        " stance, strongest reasons, reasons to, reasons against, reasons not to, tear, pick holes,"
        " what speaks, downside*, drawback*, upsides, cons, pros",
        "vor und nachteile, argumente, abwag*, wage, perspektive, gegenargument*, was spricht, diskutier*,"
        " urteil, meinungen, zweite meinung, einwand*, beleuchte, gespalten, angreif*, befurworter*, gegner,"
        " verteidig*, jede seite, nachteile, vorteile, grunde fur, zerpflucke",
        "avantages et inconvenients, arguments, perspectives, peser, contre argument, contre arguments,"
        " discute*, verdict, objections, opinions, partisan*, adversaire*, avis oppose, avis opposes,"
        " defend*, inconvenients, raisons de, raisons contre, posture*",
        "ventajas y desventajas, ventajas e inconvenientes, argumentos, perspectivas, sopesa*, discute*,"
        " veredicto, objeciones, opiniones, defensor*, detractor*, defiend*, opuest*, inconvenientes,"
        " razones para, razones contra, postura*",
    ),
    "deciding": (
        "should i, should we, should my, should our, should a, should the, should, should there,"
        " which should, which would you, would it be, is it better, better to, is it worth, worth it,"
        " worth getting, decide, decision, torn, choose, job offer, job offers, two offers, rather, wiser,"
        " whether to, can t agree, is my argument, stay, best way to, best approach, more convincing,"
        " less risk, strategy, rent, buy, take which, help us, good or bad, who is right, realistic,"
        " what now, convince me, think it through, both have a point, brave or stupid, for the same money,"
        " let it go, instead, or should, on the fence, dilemma, would you rather, pick between, advice,"
        " what would you advise, give in, risk losing, overkill, worthwhile, mistake, sensible, keep or,"
        " now or later, alive or, yes or no, which path, what matters more, or not, prefer, better off,"
        " or risk, reasonable",
        "soll ich, sollen wir, sollte ich, sollten wir, sollte man, sollte es, sollte, lohnt, besser,"
        " entscheid*, hin und hergerissen, kundigen, lieber, sinnvoll, kaufen oder, mieten, nicht einig,"
        " uneinig, was tun, hat was fur sich, oder doch, zwickmuhle, statt, ja oder nein, ratsam, fehler,"
        " uberzogen, was raten, was wurdest du, oder nicht, oder warten",
        "dois je, devrais je, devons nous, faut il, vaut il mieux, mieux vaut, choisir, decider, hesite*,"
        " acheter, louer, accepter, que faire, plutot que, on hesite, ou bien, que conseilles, oui ou non,"
        " erreur, raisonnable, partage, partagee, ou attendre, maintenant ou",
        "deberia, deberiamos, deberian, conviene, merece la pena, vale la pena, es mejor, decidir, elegir,"
        " no se que hacer, alquilar, comprar, no nos ponemos de acuerdo, en vez de, dilema, mejor,"
        " que aconsejas, si o no, error, razonable, o esperar, ahora o",
    ),
    "contested": (
        "ethical, unethical, moral, morally, immoral, justified, justify, ban, banned, abolish*, legal,"
        " legali*, right or wrong, compulsory, mandatory, free will, universal basic income, capitalism,"
        " socialism, euthanasia, abortion, death penalty, gun control, immigration, nuclear, climate change,"
        " wealth tax, inequality, regulate*, regulation, overrated, harm, freedom, privacy, religion, god,"
        " society, threat, compatible, justice, fair, rights, allowed to, is it wrong, wrong to, right thing,"
        " the right thing, is it ok, is it okay, is it fair, owe, owes, better off, humanity, free society,"
        " surveillance, security, responsib*, obligation*, duty, deserve*, blame, guilty, law, laws, punish*,"
        " tax, taxes, animals, museum, colonial*, war crime, censorship, free speech, equality, feminis*,"
        " meritocracy, true art, truth, evil, theft, steal*, piracy, democracy, altruism, dignity, suicide,"
        " war, patriot*, nationalism, monarchy, hypocri*, vaccine mandate, cancel culture, gender, racism,"
        " reparations, cloning, designer babies, colonise mars, colonize, generations, meaning of art,"
        " beauty, soul, happiness, lie to, lying, loyal*, betray*, forgive*, sacrifice, innocent",
        "moralisch*, ethisch*, gerechtfertigt, verbieten, verbot*, tempolimit, wehrpflicht, sterbehilfe,"
        " todesstrafe, grundeinkommen, abtreibung, mietendeckel, gerecht*, freiheit, kapitalismus, atomkraft,"
        " klimawandel, vertretbar, darf man, durfen wir, recht auf, schuld, pflicht, gesellschaft, steuer*,"
        " tierversuche, uberwachung, zensur, verdient*, fair, religion, ungerecht*, demokratie, diebstahl,"
        " scheinheilig, impfpflicht, krieg, monarchie, gender*, rassismus, luge, lugen, verrat, verzeihen,"
        " willen, toten, kunst",
        "ethique, moral*, moralement, justifi*, interdire, peine de mort, euthanasie, avortement,"
        " revenu universel, nucleaire, menace, intelligence artificielle, liberte, capitalisme, climat,"
        " est il moral, a t on le droit, devoir, societe, impot*, surveillance, censure, obligatoire*, juste,"
        " injuste*, mentir, religion, democratie, hypocri*, dignite, guerre, monarchie, racisme, mensonge,"
        " trahir, pardonner, engage",
        "etico*, etica*, moral*, justificad*, prohibir*, pena de muerte, eutanasia, aborto, renta basica,"
        " nuclear, amenaza, libertad, capitalismo, perjudica*, esta justificado, es justo, injust*, ley,"
        " leyes, deber, sociedad, impuesto*, vigilancia, censura, obligatori*, mentir, religion, democracia,"
        " robo, hipocri*, dignidad, guerra, monarquia, racismo, mentira, traicion*, perdonar, artista, obra,"
        " arte, se debe",
    ),
    "either": (
        "or",
        "oder",
        "ou",
        "o",
    ),
    "ourselves": (
        "we, us, our, ours, we re, my husband, my wife, my team, our team",
        "wir, uns, unser*",
        "nous, notre, nos",
        "nosotros, nuestro*, nuestra*",
    ),
    "personal": (
        "i feel, i m, my boss, my dog, my cat, my friend, lonely, sad, tired, my kids, my wife, my husband,"
        " my best friend",
        "ich bin, ich fuhle, traurig, mude, einsam, mein chef, mein hund, meine mutter",
        "je me sens, je suis, triste, fatigue*, seul*, mon chef, mon chien",
        "me siento, estoy, triste, cansad*, solo, mi jefe, mi perro",
    ),
}
"""What the words are about: the group, and its words in the four languages."""

_COMMON = (
    "the is are was a an to and of in on for with what how i you my me it this that do does can please which"
    " from at by be or we our have has if so there",
    "der die das und ist sind ich du ein eine einen wie was im in mir den dem zu auf fur mit wer bitte von"
    " nicht es wir hat haben kann man sich",
    "le les un une est et je tu que qui dans pour sur avec des du mon ma ce cette quel quelle sont au ne pas"
    " il elle nous vous",
    "el los las un una es y yo que en por para con del mi su como cual se al lo son no hay nos esta",
)


WORD = re.compile(r"[^\W_]+")

_SHORTEST, _LONGEST = 4, 14
"""Letters of a beginning such as `translat*`."""


class Phrase(Struct, frozen=True):
    """One word, or the first of several, that tells of a group."""

    group: str
    rest: tuple[str, ...]
    """The words that must follow."""


class Lexicon(Struct, frozen=True):
    """All lists, by how they are looked up."""

    phrases: dict[str, tuple[Phrase, ...]]
    """By their first word."""
    beginnings: dict[str, str]
    """Groups by beginnings of words."""
    common: frozenset[str]


@cache
def lexicon() -> Lexicon:
    """The lists, made ready at first use."""
    phrases: dict[str, list[Phrase]] = {}
    beginnings: dict[str, str] = {}
    for group, languages in GROUPS.items():
        for entry in (entry.strip() for listed in languages for entry in listed.split(",")):
            if entry.endswith("*"):
                beginnings[entry[:-1]] = group
            else:
                first, *rest = entry.split()
                phrases.setdefault(first, []).append(Phrase(group, tuple(rest)))
    return Lexicon(
        {first: tuple(found) for first, found in phrases.items()}, beginnings, frozenset(" ".join(_COMMON).split())
    )


def folded(text: str) -> str:
    """A text in small letters without accents, which many leave out when they type."""
    text = text.casefold()
    if text.isascii():
        return text
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))


def groups_in(words: Sequence[str]) -> dict[str, int]:
    """How often each group is met in folded words."""
    lists = lexicon()
    met: dict[str, int] = {}
    for at, word in enumerate(words):
        for phrase in lists.phrases.get(word, ()):
            if not phrase.rest or tuple(words[at + 1 : at + 1 + len(phrase.rest)]) == phrase.rest:
                met[phrase.group] = met.get(phrase.group, 0) + 1
        for size in range(_SHORTEST, min(len(word), _LONGEST) + 1):
            if group := lists.beginnings.get(word[:size]):
                met[group] = met.get(group, 0) + 1
                break
    return met
